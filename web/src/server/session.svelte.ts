// The conversation of this page: what was said, what is being said, and what the server does meanwhile.
import type { TraceDocument } from '../lib/document'
import { Refused, Server, type Stats, type Usage } from './api'

export interface Message {
  role: 'user' | 'assistant'
  content: string
  /** Of the server's reply; what a trace is asked for by. */
  id: string | null
  finish: string | null
  usage: Usage | null
  /** Seconds until the first text, and of all of it. */
  first: number | null
  took: number | null
  error: string | null
}

export interface Wishes {
  system: string
  temperature: number
  topP: number
  maxTokens: number
  seed: number | null
}

const HISTORY = 90

export class Session {
  readonly server = new Server()
  messages = $state<Message[]>([])
  wishes = $state<Wishes>({ system: '', temperature: 0.7, topP: 0.95, maxTokens: 512, seed: null })
  answering = $state(false)
  stats = $state<Stats | null>(null)
  rates = $state<number[]>([])
  needsKey = $state(false)
  unreachable = $state(false)
  /** The x-ray that is open. */
  glass = $state<{ id: string; trace: TraceDocument | null; error: string | null } | null>(null)
  private abort: AbortController | null = null

  async send(text: string): Promise<void> {
    if (this.answering || !text.trim()) return
    this.messages.push({ ...SILENT, role: 'user', content: text })
    await this.answer()
  }

  /** Says the last answer again; with a seed it is the same. */
  async regenerate(): Promise<void> {
    if (this.answering) return
    if (this.messages.at(-1)?.role === 'assistant') this.messages.pop()
    if (this.messages.length) await this.answer()
  }

  stop(): void {
    this.abort?.abort()
  }

  clear(): void {
    this.stop()
    this.messages = []
  }

  private async answer(): Promise<void> {
    const { system, temperature, topP, maxTokens, seed } = this.wishes
    const said = this.messages.filter((message) => !message.error || message.content).map(({ role, content }) => ({ role, content }))
    const begun = performance.now()
    this.messages.push({ ...SILENT, role: 'assistant' })
    const reply = this.messages.at(-1)!
    this.answering = true
    this.abort = new AbortController()
    try {
      const chunks = this.server.chat(
        {
          messages: system.trim() ? [{ role: 'system', content: system }, ...said] : said,
          temperature, top_p: topP, max_tokens: maxTokens, seed, stream: true, stream_options: { include_usage: true },
        },
        this.abort.signal,
      )
      for await (const chunk of chunks) {
        reply.id = chunk.id
        reply.usage = chunk.usage ?? reply.usage
        const choice = chunk.choices[0]
        if (choice?.delta.content) {
          reply.first ??= (performance.now() - begun) / 1000
          reply.content += choice.delta.content
        }
        reply.finish = choice?.finish_reason ?? reply.finish
      }
    } catch (error) {
      if (error instanceof DOMException && error.name === 'AbortError') reply.finish = 'cancelled'
      else this.trouble(error, (text) => (reply.error = text))
    } finally {
      reply.took = (performance.now() - begun) / 1000
      this.answering = false
      this.abort = null
    }
  }

  async open(id: string): Promise<void> {
    this.glass = { id, trace: null, error: null }
    try {
      const trace = await this.server.trace(id)
      if (this.glass?.id === id) this.glass = { id, trace, error: null }
    } catch (error) {
      this.trouble(error, (text) => {
        if (this.glass?.id === id) this.glass = { id, trace: null, error: text }
      })
    }
  }

  /** Looks what the server does, over and over, while somebody looks at this page. */
  watch(): () => void {
    let timer = 0
    const look = async (): Promise<void> => {
      if (!document.hidden) {
        try {
          this.stats = await this.server.stats()
          this.rates = [...this.rates.slice(1 - HISTORY), this.stats.tokens_per_s]
          this.needsKey = this.unreachable = false
        } catch (error) {
          this.needsKey = error instanceof Refused && error.status === 401
          this.unreachable = !(error instanceof Refused)
        }
      }
      timer = window.setTimeout(() => void look(), this.answering ? 500 : this.needsKey ? 4000 : 1500)
    }
    void look()
    return () => clearTimeout(timer)
  }

  private trouble(error: unknown, tell: (text: string) => void): void {
    if (error instanceof Refused && error.status === 401) this.needsKey = true
    tell(error instanceof Error ? error.message : String(error))
  }
}

const SILENT: Omit<Message, 'role'> = {
  content: '', id: null, finish: null, usage: null, first: null, took: null, error: null,
}
