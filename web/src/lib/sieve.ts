// The sampler again, on the stored candidates: what other settings would have drawn from the same logits.
// The rules are those of boli/engine/sampling.py. What is not stored is only bounded: by its count, its share at
// the recorded temperature, a histogram, and that none of it is likelier than the last stored candidate. If the result could
// depend on more than that, the outcome says so instead of guessing.
import type { Candidate, Grammar, Sampler } from './document'

export interface Settings {
  temperature: number
  topK: number
  topP: number
  minP: number
}

export interface Sifted {
  candidate: Candidate
  weight: number
  probability: number
  cut: 'top_k' | 'top_p' | 'min_p' | null
  final: number
  bucket: [number, number] | null
}

export interface Outcome {
  sifted: Sifted[]
  /** The drawn candidate; null if the stored candidates do not settle it. */
  chosen: Candidate | null
  /** Whether the stored candidates settle what is left and how likely each of it is. */
  enough: boolean
  kept: number
}

export function sift(sampler: Sampler, settings: Settings, uniform: number | null): Outcome {
  const stored = sampler.candidates
  const best = Math.max(...stored.map((one) => one.penalised))
  if (settings.temperature === 0) return greedy(sampler, best)

  const weights = stored.map((one) => Math.exp((one.penalised - best) / settings.temperature))
  const sorted = runLength(sampler)
  const rest = boundRest(sampler, settings.temperature, best, sorted)
  const sum = weights.reduce((total, weight) => total + weight, 0)
  const total = sum + (rest.low + rest.high) / 2
  const sifted: Sifted[] = stored.map((candidate, index) => ({
    candidate,
    weight: weights[index]!,
    probability: weights[index]! / total,
    cut: null,
    final: 0,
    bucket: null,
  }))

  // What is left of the stored ones that are known to be the largest, and of all the others.
  let enough = true
  let left = sifted.slice(0, sorted)
  let outside = sampler.rest.count > 0 || sorted < stored.length
  let { low, high } = rest
  for (const one of sifted.slice(sorted)) {
    low += one.weight
    high += one.weight
  }

  // What a grammar bars counts here, too: the sampler sorts by likelihood if top-k is below the vocabulary.
  const allowed = stored.length + sampler.rest.count
  let ordered = settings.topK > 0 && settings.topK < (sampler.grammar?.vocabulary ?? allowed)
  if (settings.topK > 0 && settings.topK < allowed) {
    if (settings.topK <= left.length) {
      for (const one of sifted) one.cut = left.slice(0, settings.topK).includes(one) ? null : 'top_k'
      left = left.slice(0, settings.topK)
      outside = false
      low = high = 0
    } else {
      low = 0 // some of the others are cut, unknown how many
    }
  }
  if (settings.topP < 1) {
    ordered = true
    const inside = left.reduce((total, one) => total + one.weight, 0)
    const least = reach(left, settings.topP * (inside + low))
    const most = reach(left, settings.topP * (inside + high))
    if (most <= left.length) {
      enough = !outside || least === most
      left = left.slice(0, most)
      for (const one of sifted) if (!one.cut && !left.includes(one)) one.cut = 'top_p'
      outside = false
    } else {
      enough = least > left.length
    }
  }
  if (settings.minP > 0) {
    const last = left[left.length - 1]
    if (last && last.weight < settings.minP) outside = false
    for (const one of sifted) if (!one.cut && one.weight < settings.minP) one.cut = 'min_p'
    left = left.filter((one) => !one.cut)
  }
  if (outside) return { sifted, chosen: null, enough: false, kept: left.length }

  // Without top-k and top-p the sampler goes through what is left in order of ids.
  const drawn = ordered ? left : [...left].sort((a, b) => a.candidate.id - b.candidate.id)
  const mass = drawn.reduce((total, one) => total + one.weight, 0)
  let cumulated = 0
  let chosen: Candidate | null = null
  for (const one of drawn) {
    const start = cumulated / mass
    cumulated += one.weight
    one.final = one.weight / mass
    one.bucket = [start, cumulated / mass]
    if (uniform !== null && chosen === null && cumulated > uniform * mass) chosen = one.candidate
  }
  return { sifted, chosen: enough ? chosen : null, enough, kept: drawn.length }
}

/** What a candidate's probability was before the grammar's mask; the same without one. */
export function beforeMask(sampler: Sampler, candidate: Candidate): number {
  return Math.exp(candidate.penalised - sampler.normalizer.log_sum_exp) * (sampler.grammar?.probability ?? 1)
}

/** The logit, after bias and penalties, of a token that the grammar barred: from its probability. */
export function barredLogit(sampler: Sampler, grammar: Grammar, probability: number): number {
  return sampler.normalizer.log_sum_exp + Math.log(probability / grammar.probability)
}

function greedy(sampler: Sampler, best: number): Outcome {
  // Ties go to the lower id.
  const winner = sampler.candidates
    .filter((one) => one.penalised === best)
    .reduce((low, one) => (one.id < low.id ? one : low))
  const sifted = sampler.candidates.map((candidate) => ({
    candidate,
    weight: candidate === winner ? 1 : 0,
    probability: candidate.probability,
    cut: null,
    final: candidate === winner ? 1 : 0,
    bucket: null,
  }))
  return { sifted, chosen: winner, enough: true, kept: 1 }
}

/** How many of the stored candidates are surely the most likely ones: the chosen one may have been appended. */
function runLength(sampler: Sampler): number {
  const last = sampler.candidates[sampler.candidates.length - 1]
  return sampler.rest.count > 0 && last?.id === sampler.chosen ? sampler.candidates.length - 1 : sampler.candidates.length
}

/** The temperature of the record: what a penalised logit was divided by. */
export function recordedTemperature(sampler: Sampler): number {
  const one = sampler.candidates.reduce((a, b) => (Math.abs(b.scaled) > Math.abs(a.scaled) ? b : a))
  return one.scaled === 0 ? 1 : one.penalised / one.scaled
}

/** Between which bounds the weights of what is not stored add up at a temperature. */
function boundRest(sampler: Sampler, temperature: number, best: number, sorted: number): { low: number; high: number } {
  const { count, probability } = sampler.rest
  const last = sampler.candidates[sorted - 1]
  if (count === 0 || !last) return { low: 0, high: 0 }
  const recorded = recordedTemperature(sampler)
  const stored = sampler.candidates.reduce((sum, one) => sum + Math.exp((one.penalised - best) / recorded), 0)
  const sum = (stored * Math.max(probability, 0)) / Math.max(1 - probability, 1e-300)
  const power = recorded / temperature
  const largest = Math.exp((last.penalised - best) / recorded)
  const many = count ** (1 - power) * sum ** power // if all were equal (power mean)
  const few = largest ** (power - 1) * sum // if all were as large as the largest can be
  const most = count * largest ** power
  const bars = byHistogram(sampler, temperature, best)
  return {
    low: Math.max(power >= 1 ? many : Math.min(few, most), bars.low),
    high: Math.min(power >= 1 ? few : many, most, bars.high),
  }
}

/** The same from how many of them lie in which range of logits. */
function byHistogram(sampler: Sampler, temperature: number, best: number): { low: number; high: number } {
  const histogram = sampler.rest.histogram
  if (!histogram) return { low: 0, high: Infinity }
  const weight = (edge: number): number => Math.exp((histogram.low + edge * histogram.width - best) / temperature)
  const sum = (shift: number): number => histogram.counts.reduce((total, count, bar) => total + count * weight(bar + shift), 0)
  return { low: sum(-0.01), high: sum(1.01) } // the edges are rounded to six digits
}

/** How many of a sorted list it takes to reach a mass; more than there are if they do not. */
function reach(list: Sifted[], mass: number): number {
  let sum = 0
  for (let index = 0; index < list.length; index++) {
    sum += list[index]!.weight
    if (sum >= mass) return index + 1
  }
  return list.length + 1
}
