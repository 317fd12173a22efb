// Numbers as people read them.

export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** In powers of 1000, as everywhere in boli, so that they can be divided by GB/s. */
export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (Math.abs(value) >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? count(value) : fixed(value)} ${units[unit]}`
}

export function seconds(value: number): string {
  if (value >= 1) return `${fixed(value)} s`
  if (value >= 1e-3) return `${fixed(value * 1e3)} ms`
  if (value >= 1e-6) return `${fixed(value * 1e6)} µs`
  return `${fixed(value * 1e9)} ns`
}

export function perSecond(value: number): string {
  return `${fixed(value / 1e9)} GB/s`
}

export function percent(value: number): string {
  if (value >= 0.9995) return value === 1 ? '100%' : '99.9+%'
  if (value >= 0.001) return `${(value * 100).toFixed(1)}%`
  if (value >= 1e-6) return `${Number((value * 100).toPrecision(2))}%`
  return value === 0 ? '0%' : '<0.0001%'
}

/** Large counts in one word: 134.5M. */
export function short(value: number): string {
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'K']] as const) {
    if (value >= size) return `${fixed(value / size)}${unit}`
  }
  return count(value)
}

/** Operations: 1.54 G. */
export function operations(value: number): string {
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']] as const) {
    if (value >= size) return `${fixed(value / size)} ${unit}`
  }
  return count(value)
}

/** Three significant digits, without an exponent. */
export function fixed(value: number): string {
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (!Number.isFinite(value)) return '–'
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)
}
