// Opens the document that `boli/trace/page/packed.py` put into the page; the form is described there.
import { fromBase64 } from './arrays'
import { SCHEMA, type TraceDocument } from './document'

interface Stack {
  lead: number
  lengths: number[]
  at: [number, number, number]
}

interface Container {
  texts: Record<string, string>
  stacks: Stack[]
  document: unknown
}

export async function openEmbedded(text: string): Promise<TraceDocument> {
  const stream = new Blob([fromBase64(text.trim()) as BlobPart]).stream().pipeThrough(new DecompressionStream('gzip'))
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer())
  const length = new DataView(bytes.buffer).getUint32(0, true)
  const container: Container = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(4, 4 + length)))
  const blob = bytes.subarray(4 + length)
  const stacks = new Map(container.stacks.map((stack) => [stack.lead, unstacked(stack, blob)]))

  function unpack(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(unpack)
    if (value === null || typeof value !== 'object') return value
    const record = value as Record<string, unknown>
    if ('#columns' in record) return rows(record['#columns'] as Record<string, unknown>, record['#length'] as number)
    if ('dtype' in record && 'data' in record) return { ...record, data: bytesOf(record.data) }
    const whole: Record<string, unknown> = {}
    for (const [key, inner] of Object.entries(record)) whole[key] = unpack(inner)
    if ('id' in whole && !('text' in whole)) whole.text = container.texts[String(whole.id)]
    return whole
  }
  /** Columns back to rows; a column can itself be columns. */
  function rows(columns: Record<string, unknown>, length: number): unknown[] {
    const lists = Object.entries(columns).map(([key, column]) => [key, plain(column)] as const)
    return Array.from({ length }, (_, row) => unpack(Object.fromEntries(lists.map(([key, list]) => [key, list[row]]))))
  }
  function plain(column: unknown): unknown[] {
    if (Array.isArray(column)) return column
    const { '#columns': inner, '#length': length } = column as { '#columns': Record<string, unknown>; '#length': number }
    const lists = Object.entries(inner).map(([key, list]) => [key, plain(list)] as const)
    return Array.from({ length }, (_, row) => Object.fromEntries(lists.map(([key, list]) => [key, list[row]])))
  }
  function bytesOf(data: unknown): Uint8Array {
    if (Array.isArray(data)) return blob.subarray(data[0], data[1])
    const { stack, index } = data as { stack: number; index: number }
    return stacks.get(stack)![index]!
  }
  return checked(unpack(container.document) as TraceDocument)
}

/** The arrays of a stack: bits say which weights are not 0, then come those. */
function unstacked({ lead, lengths, at: [bits, weights] }: Stack, blob: Uint8Array): Uint8Array[] {
  const arrays = lengths.map((length) => new Uint8Array(lead * length))
  const longest = Math.max(...lengths)
  let place = 0
  let next = weights
  for (let index = 0; index < lead; index++) {
    for (let position = 0; position < longest; position++) {
      for (let row = 0; row < lengths.length; row++) {
        const length = lengths[row]!
        if (position >= length) continue
        if (blob[bits + (place >> 3)]! & (1 << (place & 7))) arrays[row]![index * length + position] = blob[next++]!
        place++
      }
    }
  }
  return arrays
}

/** Refuses what is no trace of a known schema, or one without a decision. */
export function checked(document: TraceDocument): TraceDocument {
  if (document?.schema !== SCHEMA) {
    throw new Error(`this page reads ${SCHEMA}; the document says ${String(document?.schema).slice(0, 60)}`)
  }
  if (!document.decisions?.length) throw new Error('the trace holds no generated token')
  return document
}
