// Text of a model is data: what would act or hide is shown as a sign.

const SIGNS: Record<string, string> = { '\n': '↵', '\t': '⇥', '\r': '␍', '\u00a0': '⍽', '\u3000': '□' }
// Controls, bidi marks and isolates, zero-width characters, separators, interlinear marks, lone surrogates.
const HIDDEN =
  /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3000\ufeff\ufff9-\ufffb]|\p{Cs}|[\u{e0000}-\u{e007f}]/gu

/** Text with every control character, direction mark and invisible character made visible. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (character) => {
    const code = character.codePointAt(0)!
    if (SIGNS[character]) return SIGNS[character]
    if (code < 32) return String.fromCharCode(0x2400 + code)
    return `⟨${code.toString(16).toUpperCase().padStart(4, '0')}⟩`
  })
}

/** The same for a token on its own: spaces at its ends are seen, and "" has a sign. */
export function visibleToken(text: string): string {
  if (text === '') return '∅'
  return visible(text).replace(/^ +| +$/g, (spaces) => '·'.repeat(spaces.length))
}

/** Text over many lines, in which line breaks and tabs do what they are for. */
export function visibleText(text: string): string {
  return text.split(/(\n|\t)/).map((part) => (part === '\n' || part === '\t' ? part : visible(part))).join('')
}
