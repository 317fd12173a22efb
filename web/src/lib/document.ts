// The trace document, schema "boli-trace/1", as the page reads it. `docs/trace-schema.md` is the authority.

export const SCHEMA = 'boli-trace/1'

/** Numbers, either as a list or as base64 of little-endian C order; `open.ts` replaces base64 by bytes. */
export interface Packed {
  dtype: 'u1' | 'f2' | 'f4' | 'i4'
  shape: number[]
  scale?: number
  data: string | Uint8Array
}

export interface Token {
  id: number
  text: string
  piece: string
  span: [number, number] | null
  message: number | null
  special: boolean
  generated: boolean
  position: number
}

export interface Weight {
  name: string
  role: string
  layer: number | null
  shape: number[]
  parameters: number
  type: string
  bytes: number
  tied_to: string | null
}

export interface Stage {
  key: string
  title: { en: string; zh: string }
  equation: string
  source: string
  roles: string[]
  values: string[]
  shape: string
}

export interface Layer {
  index: number
  window: number | null
  bytes: number
  stages: Record<string, { bytes: number; flops: number; bytes_per_position?: number; flops_per_position?: number }>
}

export interface Candidate {
  id: number
  text: string
  logit: number
  penalised: number
  scaled: number
  probability: number
  cut: string | null
  final: number
  bucket: [number, number] | null
}

/** What the grammar of an answer let through; the probabilities are those before its mask. */
export interface Grammar {
  allowed: number
  vocabulary: number
  probability: number
  /** The likeliest of the others. */
  barred: { id: number; text: string; logit: number; probability: number }[]
}

export interface Sampler {
  order: string[]
  /** With one, all that follows is about allowed tokens only. */
  grammar?: Grammar | null
  candidates: Candidate[]
  rest: { count: number; probability: number; histogram?: { low: number; width: number; counts: number[] } | null }
  kept: number
  greedy: boolean
  uniform: number | null
  chosen: number
  normalizer: { max: number; log_sum_exp: number }
}

export interface Guess {
  id: number
  text: string
  probability: number
}

export interface Decision {
  at: number
  token: number
  text: string
  logit: number
  logprob: number
  /** How many tokens were likelier. */
  rank: number
  entropy: number
  top: { id: number; text: string; logit: number; probability: number }[]
  lens: { top: Guess[][]; rank: number[]; probability: number[]; first_leads: number | null } | null
  norms: { residual: number[]; attention_branch: number[]; mlp_branch: number[] } | null
  attention: { first_position: number; weights: Packed } | null
  values?: Record<string, Packed>
  sampler: Sampler
  kv: {
    positions: number
    pages: number[]
    shared: number
    /** Cached pages of other requests that were given up for the replay. */
    evicted: number
    /** Pages behind the window. */
    skipped: number
    bytes_used: number
    bytes_allocated: number
    bytes_predicted: number
  }
  time: { total: number; rows: number; embedding: number; head: number; sampling: number; layers: number[][] } | null
}

export interface Model {
  name: string
  family: string
  source: string
  format: string
  parameters: number
  bytes: number
  num_hidden_layers: number
  hidden_size: number
  intermediate_size: number
  num_attention_heads: number
  num_key_value_heads: number
  head_dim: number
  vocab_size: number
  tied: boolean
  windows: (number | null)[]
  kv_cache_type: string
  page_size: number
  context: number
}

export interface Roofline {
  read_bytes_per_s: number | null
  operations_per_s: number | null
  /** The type that they are of, such as int8. */
  operations_in: string
  bytes_per_token: number
  bytes_with_cache: number | null
  flops_per_token: number
  predicted_seconds: number | null
  measured_seconds: number | null
  /** Of the run itself; `measured_seconds` is the replay's. */
  run_seconds?: number | null
  prefill: { tokens: number; bytes: number; flops: number; predicted_seconds: number | null; measured_seconds: number }
}

export interface TraceDocument {
  schema: string
  boli: string
  created: string
  detail: string
  price: {
    bytes_predicted: number
    bytes: number
    seconds_predicted: number | null
    seconds: number
    offers?: { detail: string; bytes: number; seconds: number | null }[] | null
  }
  proof: {
    compared: number
    largest_logit_difference: number | null
    largest_logprob_difference: number | null
    recorded: boolean
    same_model?: boolean
    differences?: string[]
    sampler_reproduced?: number
  } | null
  model: Model
  machine: { cpu: string; threads: number; read_bytes_per_s: number | null }
  run: { seed: number | null; sampling: Record<string, unknown>; prompt_length: number; generated: number; reused_tokens: number; timings: Record<string, number> }
  text: { kind: string; messages: { role: string; content: string }[] | null; prompt: string; answer: string }
  tokens: Token[]
  weights: Weight[]
  stages: Stage[]
  layers: Layer[]
  decisions: Decision[]
  timed_stages?: string[]
  prompt_steps?: { rows: number; seconds: number; first_position: number }[]
  /** In full detail: the prompt without its last token, by probe: [layer, position, size] or [position, size]. */
  prompt_values?: Record<string, Packed> | null
  /** In full detail: attention within the prompt, [layer, head, row, position]. */
  prompt_attention?: { first_position: number; weights: Packed } | null
  prompt_lens?: { text: string[][]; probability: number[][] | Packed } | null
  roofline: Roofline | null
  compare?: Comparison
}

/** The same tokens through a second model; pairs are of this one and of that. */
export interface Comparison {
  model: Model
  bytes: [number, number]
  bytes_per_token: [number, number]
  kv_bytes: [number, number]
  seconds_per_token: [number | null, number | null]
  first_divergent: number | null
  decisions: { kl: number; chosen: number; text: string; probability: [number, number]; rank: number }[]
  cosine: Packed | null
}
