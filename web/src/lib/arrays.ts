// Packed arrays of a document, read element by element.
import type { Packed } from './document'

/** A view on a packed array: the value at a place counted in C order. */
export interface Numbers {
  shape: number[]
  length: number
  at: (index: number) => number
}

const opened = new WeakMap<object, Numbers>()

/** Opens a packed array or a (nested) list; remembered, so that it costs once. */
export function numbers(source: Packed | number[] | number[][]): Numbers {
  let found = opened.get(source)
  if (!found) {
    found = Array.isArray(source) ? ofList(source) : ofPacked(source)
    opened.set(source, found)
  }
  return found
}

function ofList(list: number[] | number[][]): Numbers {
  const flat = list.flat()
  const shape = Array.isArray(list[0]) ? [list.length, list[0].length] : [list.length]
  return { shape, length: flat.length, at: (index) => flat[index] ?? 0 }
}

function ofPacked({ dtype, shape, scale = 1, data }: Packed): Numbers {
  const bytes = typeof data === 'string' ? fromBase64(data) : data
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const length = shape.reduce((product, size) => product * size, 1)
  const width = { u1: 1, f2: 2, f4: 4, i4: 4 }[dtype]
  if (bytes.byteLength !== length * width) {
    throw new Error(`an array of shape [${shape.join(', ')}] has ${bytes.byteLength} bytes, not ${length * width}`)
  }
  const read = {
    u1: (index: number) => bytes[index]! * scale,
    f2: (index: number) => half(view.getUint16(index * 2, true)),
    f4: (index: number) => view.getFloat32(index * 4, true),
    i4: (index: number) => view.getInt32(index * 4, true),
  }[dtype]
  return { shape, length, at: (index) => (index >= 0 && index < length ? read(index) : 0) }
}

export function fromBase64(text: string): Uint8Array {
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index)
  return bytes
}

/** An IEEE half as a number. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}
