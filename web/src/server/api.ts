// The server that this page came from: chat as a stream of events, what goes on, and traces.
import { checked } from '../lib/open'
import type { TraceDocument } from '../lib/document'

/** An answer of the server that is an error, in OpenAI's shape. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message)
  }
}

export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  prompt_tokens_details?: { cached_tokens?: number }
}

export interface Chunk {
  id: string
  choices: { delta: { content?: string }; finish_reason: string | null }[]
  usage?: Usage | null
}

export interface Running {
  id: string
  state: string
  age_s: number
  prompt_tokens: number
  computed_tokens: number
  cached_tokens: number
  generated_tokens: number
  pages: number
  why_waited: string
}

export interface Stats {
  running: number
  waiting: number
  pages: { total: number; used: number; cached: number; free: number; size: number }
  tokens_per_s: number
  generated_tokens: number
  cached_tokens: number
  model: string
  context: number
  trace: boolean
  requests: Running[]
}

/** Asks with the key that the reader typed; the key is nowhere but in this page's memory. */
export class Server {
  key = ''

  async *chat(body: object, signal: AbortSignal): AsyncGenerator<Chunk> {
    const reply = await this.ask('/v1/chat/completions', body, signal)
    const reader = reply.body!.pipeThrough(new TextDecoderStream()).getReader()
    let waiting = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      waiting += value
      const events = waiting.split('\n\n')
      waiting = events.pop()!
      for (const event of events) {
        // Lines that start with a colon are comments that keep the connection alive.
        const data = event.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart()).join('\n')
        if (data === '' || data === '[DONE]') continue
        const chunk = JSON.parse(data)
        if (chunk.error) throw new Refused(200, String(chunk.error.message), chunk.error.code)
        yield chunk
      }
    }
  }

  async stats(): Promise<Stats> {
    return (await this.ask('/stats')).json()
  }

  async trace(id: string): Promise<TraceDocument> {
    return checked(await (await this.ask('/trace', { id })).json())
  }

  private async ask(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = body ? { 'Content-Type': 'application/json' } : {}
    if (this.key) headers.Authorization = `Bearer ${this.key}`
    const reply = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal, cache: 'no-store' })
    if (reply.ok) return reply
    const error = await reply.json().then((told) => told.error, () => null)
    throw new Refused(reply.status, String(error?.message ?? reply.statusText), error?.code ?? null)
  }
}
