// Matrices to scale: how many pixels a number gets, and where each matrix lies.
import type { Weight } from './document'
import { partOf, type Part } from './stages'

export interface Block {
  weight: Weight
  part: Part
  /** Width of one strip, and height, in numbers; a matrix that is too tall lies in strips side by side. */
  columns: number
  height: number
  strips: number
  x: number
  y: number
}

const ROLES: Record<string, Part> = {
  embedding: 'embedding', positions: 'embedding', head: 'head',
  q: 'attention', k: 'attention', v: 'attention', qkv: 'attention', o: 'attention',
  gate: 'mlp', up: 'mlp', gate_up: 'mlp', down: 'mlp',
}

export function partOfWeight(weight: Weight): Part {
  return ROLES[weight.role] ?? partOf(weight.role)
}

export function isMatrix(weight: Weight): boolean {
  return weight.shape.length > 1
}

/** A matrix in as few strips as are not taller than `most`. */
export function cut(weight: Weight, most: number): Block {
  const columns = weight.shape[weight.shape.length - 1]!
  const rows = weight.shape.slice(0, -1).reduce((product, size) => product * size, 1)
  const strips = Math.max(1, Math.ceil(rows / most))
  return { weight, part: partOfWeight(weight), columns, height: rows / strips, strips, x: 0, y: 0 }
}

const widthOf = (block: Block): number => block.columns * block.strips

export interface Tile {
  blocks: Block[]
  width: number
  height: number
}

/** The matrices of a layer close together, in about a square. */
export function tile(weights: Weight[]): Tile {
  const side = Math.sqrt(weights.reduce((sum, weight) => sum + weight.parameters, 0))
  const tried = [1, 1.1, 1.25, 1.4, 1.6].map((stretch) => pack(weights, side * stretch))
  return tried.reduce((best, one) => (one.width * one.height < best.width * best.height ? one : best))
}

/** Each block at the highest free corner, the leftmost of those; tall ones first. */
function pack(weights: Weight[], side: number): Tile {
  const blocks = weights.map((weight) => cut(weight, side)).sort((a, b) => b.height - a.height || widthOf(b) - widthOf(a))
  const limit = Math.max(side, ...blocks.map(widthOf))
  const placed: Block[] = []
  let corners: [number, number][] = [[0, 0]]
  for (const block of blocks) {
    const free = corners
      .filter(([x, y]) => (x === 0 || x + widthOf(block) <= limit) && !placed.some((other) => overlap(other, block, x, y)))
      .sort(([ax, ay], [bx, by]) => ay - by || ax - bx)[0]!
    ;[block.x, block.y] = free
    placed.push(block)
    const right = block.x + widthOf(block)
    const bottom = block.y + block.height
    corners = [...corners, [right, block.y], [block.x, bottom], [0, bottom]]
    for (const other of placed) corners.push([right, other.y], [other.x, bottom])
  }
  return {
    blocks: placed,
    width: Math.max(...placed.map((block) => block.x + widthOf(block))),
    height: Math.max(...placed.map((block) => block.y + block.height)),
  }
}

function overlap(other: Block, block: Block, x: number, y: number): boolean {
  return (
    x < other.x + widthOf(other) && other.x < x + widthOf(block) && y < other.y + other.height && other.y < y + block.height
  )
}

export interface ModelMap {
  scale: number
  height: number
  outside: { block: Block; left: number; top: number }[]
  layers: { layer: number; tile: Tile; left: number; top: number }[]
}

const GAP = 3

/** The whole model in a rectangle of pixels: what is outside the layers in strips, then layer by layer. */
export function layOut(weights: Weight[], width: number, height: number): ModelMap {
  const own = weights.filter((weight) => isMatrix(weight) && !weight.tied_to)
  const outside = own.filter((weight) => weight.layer === null)
  const byLayer = new Map<number, Weight[]>()
  for (const weight of own) {
    if (weight.layer !== null) byLayer.set(weight.layer, [...(byLayer.get(weight.layer) ?? []), weight])
  }
  const tiles = [...byLayer].map(([layer, inside]) => ({ layer, tile: tile(inside) }))
  let low = 1e-7
  let high = 1
  for (let step = 0; step < 40; step++) {
    const scale = Math.sqrt(low * high)
    const map = place(outside, tiles, scale, width, height)
    if (map && map.height <= height) low = scale
    else high = scale
  }
  return place(outside, tiles, low, width, height) ?? { scale: low, height: 0, outside: [], layers: [] }
}

function place(
  outside: Weight[], tiles: { layer: number; tile: Tile }[], scale: number, width: number, most: number,
): ModelMap | null {
  const map: ModelMap = { scale, height: 0, outside: [], layers: [] }
  let left = 0
  for (const weight of outside) {
    const block = cut(weight, most / scale)
    map.outside.push({ block, left, top: 0 })
    map.height = Math.max(map.height, block.height * scale)
    left += widthOf(block) * scale + GAP * 2
  }
  const start = left
  let top = 0
  let tallest = 0
  for (const { layer, tile } of tiles) {
    if (left > start && left + tile.width * scale > width) {
      left = start
      top += tallest + GAP
      tallest = 0
    }
    if (left + tile.width * scale > width + 0.5) return null
    map.layers.push({ layer, tile, left, top })
    left += tile.width * scale + GAP
    tallest = Math.max(tallest, tile.height * scale)
    map.height = Math.max(map.height, top + tallest)
  }
  return start > width + GAP * 2 ? null : map
}
