// Which stages belong together, and what is known of one: its part of the layer, its time.
import type { Decision, TraceDocument } from './document'

export type Part = 'embedding' | 'attention' | 'mlp' | 'head' | 'sampling' | 'other'

/** The groups of the block diagram, in order. */
export const GROUPS = {
  before: ['tokenize', 'template', 'embedding', 'positions'],
  attention: [
    'attention_norm', 'qkv', 'rope', 'scores', 'mask', 'softmax', 'weighted_sum', 'output_projection', 'attention_residual',
  ],
  mlp: ['mlp_norm', 'gate_up', 'activation', 'down', 'mlp_residual'],
  after: ['final_norm', 'head', 'penalties', 'temperature', 'filters', 'draw'],
} as const

const SAMPLING = ['penalties', 'temperature', 'filters', 'draw']
/** Stages that run inside another one's time. */
const WITHIN: Record<string, string> = {
  scores: 'attention', mask: 'attention', softmax: 'attention', weighted_sum: 'attention',
  attention_residual: 'output_projection', activation: 'gate_up', mlp_residual: 'down', final_norm: 'head',
}

export function partOf(key: string): Part {
  if (key === 'embedding') return 'embedding'
  if (key === 'attention' || (GROUPS.attention as readonly string[]).includes(key)) return 'attention'
  if ((GROUPS.mlp as readonly string[]).includes(key)) return 'mlp'
  if (key === 'head' || key === 'final_norm') return 'head'
  return SAMPLING.includes(key) ? 'sampling' : 'other'
}

/** The part of a timed stage such as `mlp_norm+gate_up`. */
export function partOfTimed(name: string): Part {
  return partOf(name.split('+')[0]!)
}

export interface Timed {
  seconds: number
  /** The stages that were measured as one with it, in order; empty if it was alone. */
  together: string[]
}

/** What was measured of a stage in a layer. */
export function timeOf(
  document: TraceDocument, decision: Decision, layer: number, key: string,
): Timed | null {
  const time = decision.time
  if (!time) return null
  if (key === 'embedding') return { seconds: time.embedding, together: [] }
  if (SAMPLING.includes(key)) return { seconds: time.sampling, together: SAMPLING }
  if (key === 'head' || key === 'final_norm') return { seconds: time.head, together: ['final_norm', 'head'] }
  for (const wanted of [key, WITHIN[key]]) {
    const at = (document.timed_stages ?? []).findIndex((name) => wanted !== undefined && name.split('+').includes(wanted))
    const seconds = at >= 0 ? time.layers[layer]?.[at] : undefined
    if (seconds !== undefined) {
      const names = document.timed_stages![at]!.split('+')
      const together = document.stages.map((stage) => stage.key).filter((one) => names.includes(one) || names.includes(WITHIN[one] ?? ''))
      return { seconds, together: together.length > 1 ? together : [] }
    }
  }
  return null
}
