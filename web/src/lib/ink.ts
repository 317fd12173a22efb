// Colours of the page for canvases, which do not read style sheets.
import { preferences } from './preferences.svelte'

/** Colour channels of a variable of the style sheet; read again when the theme changes. */
export function channels(name: string): [number, number, number] {
  void preferences.theme
  const value = getComputedStyle(document.documentElement).getPropertyValue(name).trim()
  const wide = value.length === 4 ? value.replace(/[0-9a-f]/gi, '$&$&') : value
  const hex = parseInt(wide.slice(1), 16)
  return [(hex >> 16) & 255, (hex >> 8) & 255, hex & 255]
}

export function css([red, green, blue]: [number, number, number], alpha = 1): string {
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`
}

/** A canvas of a size in CSS pixels, cleared and ready to draw on. */
export function prepared(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = window.devicePixelRatio || 1
  canvas.width = Math.max(1, Math.round(width * ratio))
  canvas.height = Math.max(1, Math.round(height * ratio))
  const context = canvas.getContext('2d')
  context?.scale(ratio, ratio)
  return context
}
