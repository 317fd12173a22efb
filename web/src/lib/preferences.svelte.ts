// Language and light or dark: of the reader, not of a document. Kept in the browser where it allows that.
import { words, type Word } from './words'

export type Language = 'en' | 'zh'
export type Theme = 'light' | 'dark'

function stored(name: string): string | null {
  try {
    return localStorage.getItem(`boli-${name}`)
  } catch {
    return null
  }
}

function store(name: string, value: string): void {
  try {
    localStorage.setItem(`boli-${name}`, value)
  } catch {
    // a page from disk may have no storage
  }
}

class Preferences {
  language = $state<Language>((stored('language') ?? navigator.language).startsWith('zh') ? 'zh' : 'en')
  theme = $state<Theme>(
    (stored('theme') ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) as Theme,
  )

  constructor() {
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', (event) => {
      if (!stored('theme')) this.theme = event.matches ? 'dark' : 'light'
    })
  }

  switchLanguage(): void {
    this.language = this.language === 'en' ? 'zh' : 'en'
    store('language', this.language)
  }

  switchTheme(): void {
    this.theme = this.theme === 'light' ? 'dark' : 'light'
    store('theme', this.theme)
  }
}

export const preferences = new Preferences()

/** A text of the page in the reader's language; `{name}` is replaced by a value. */
export function say(word: Word, values: Record<string, string | number> = {}): string {
  const text = words[word][preferences.language === 'zh' ? 1 : 0]
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole))
}
