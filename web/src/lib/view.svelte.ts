// What is selected. Every pane reads this and only this, so all of them go together.
import { getContext, setContext } from 'svelte'
import { numbers } from './arrays'
import type { Decision, Layer, Stage, Token, TraceDocument, Weight } from './document'

/** Numbers of one vector. */
export interface Vector {
  size: number
  at: (index: number) => number
}

export class View {
  readonly document: TraceDocument
  decisionIndex = $state(0)
  /** A token that is looked at without being a decision: one of the prompt. */
  promptToken = $state<number | null>(null)
  layerIndex = $state(0)
  head = $state(0)
  stageKey = $state('qkv')
  hideSink = $state(true)
  tourStep = $state<number | null>(null)

  decision: Decision = $derived.by(() => this.document.decisions[this.decisionIndex]!)
  token: Token | undefined = $derived.by(() => this.document.tokens[this.promptToken ?? this.decision.at + 1])
  layer: Layer | undefined = $derived.by(() => this.document.layers[this.layerIndex])
  stage: Stage | undefined = $derived.by(() => this.document.stages.find((stage) => stage.key === this.stageKey))

  constructor(document: TraceDocument) {
    this.document = document
    this.layerIndex = Math.floor(document.model.num_hidden_layers / 2)
    if (!document.stages.some((stage) => stage.key === 'qkv')) this.stageKey = document.stages[0]?.key ?? ''
  }

  get headCount(): number {
    return this.document.model.num_attention_heads
  }

  goToDecision(index: number): void {
    this.decisionIndex = clamp(index, 0, this.document.decisions.length - 1)
    this.promptToken = null
  }

  /** Goes to the decision that made a token, or looks at a token of the prompt. */
  goToToken(index: number): void {
    const decision = this.document.decisions.findIndex((one) => one.at + 1 === index)
    if (decision >= 0) this.goToDecision(decision)
    else this.promptToken = index
  }

  goToLayer(index: number): void {
    this.layerIndex = clamp(index, 0, this.document.model.num_hidden_layers - 1)
  }

  goToHead(index: number): void {
    this.head = clamp(index, 0, this.headCount - 1)
  }

  goToStage(key: string): void {
    this.stageKey = key
  }

  /** Attention of one decision: the weight of each position up to the last consumed one; null if not traced. */
  attention(index = this.decisionIndex, layer = this.layerIndex, head = this.head): Float32Array | null {
    const traced = this.document.decisions[index]?.attention
    if (!traced) return null
    const weights = numbers(traced.weights)
    const [, heads = 0, positions = 0] = weights.shape
    const row = new Float32Array(traced.first_position + positions)
    const start = (layer * heads + head) * positions
    for (let place = 0; place < positions; place++) row[traced.first_position + place] = weights.at(start + place)
    return row
  }

  /** The first position whose attention is known: 0 if that of the prompt was traced, else the first decision's. */
  get firstAsking(): number {
    return this.document.prompt_attention ? this.document.prompt_attention.first_position : this.document.decisions[0]!.at
  }

  /** Attention of the selected head at a position, one of the prompt or of a decision. */
  attentionAt(position: number): Float32Array | null {
    const decision = position - this.document.decisions[0]!.at
    if (decision >= 0) return this.attention(decision)
    const traced = this.document.prompt_attention
    if (!traced) return null
    const weights = numbers(traced.weights)
    const [, heads = 0, rows = 0, positions = 0] = weights.shape
    const at = position - traced.first_position
    const start = ((this.layerIndex * heads + this.head) * rows + at) * positions
    return Float32Array.from({ length: position + 1 }, (_, place) => weights.at(start + place))
  }

  /** The position that numbers are shown of: a token of the prompt that was chosen, else the last one that was read. */
  get lookedAt(): number {
    return this.promptToken ?? this.decision.at
  }

  /** A value as it was computed at the position that is looked at, in the selected layer; null if it was not kept. */
  vector(name: string, layer = this.layerIndex): Vector | null {
    const first = this.document.decisions[0]!.at
    const decision = this.document.decisions[this.lookedAt - first]
    const found = decision ? decision.values?.[name] : this.document.prompt_values?.[name]
    if (!found) return null
    const all = numbers(found)
    const size = all.shape.at(-1) ?? 0
    const rows = decision ? 1 : (all.shape.at(-2) ?? 0)
    const layered = all.shape.length > (decision ? 1 : 2)
    const start = ((layered ? layer * rows : 0) + (decision ? 0 : this.lookedAt)) * size
    return { size, at: (index) => all.at(start + index) }
  }

  /** Lengths of the residual stream there, before the layers and after each; null if they are not known. */
  get streamLengths(): number[] | null {
    const decision = this.document.decisions[this.lookedAt - this.document.decisions[0]!.at]
    if (decision) return decision.norms?.residual ?? null
    const vectors = [this.vector('embedding'), ...this.document.layers.map((_, layer) => this.vector('residual', layer))]
    if (vectors.some((vector) => !vector)) return null
    return vectors.map((vector) => Math.hypot(...Array.from({ length: vector!.size }, (_, index) => vector!.at(index))))
  }

  /** The weights that a stage of the selected layer reads. */
  weightsOf(stage: Stage, layer = this.layerIndex): Weight[] {
    return this.document.weights.filter(
      (weight) => stage.roles.includes(weight.role) && (weight.layer === null || weight.layer === layer),
    )
  }
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value))
}

const KEY = Symbol('view')
export const provideView = (view: View): View => setContext(KEY, view)
export const useView = (): View => getContext<View>(KEY)
