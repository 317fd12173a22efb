// Builds two pages from one source: `--mode trace` (the x-ray that is inlined into an HTML file) and
// `--mode server` (chat, with the x-ray behind a button). Output goes into the Python package, and
// `sources.sha256` beside it says from which sources, so that a test can tell whether it is current.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin } from 'vite'

const root = import.meta.dirname
const pages = {
  trace: { entry: 'src/trace/main.ts', name: 'page', folder: '../src/boli/trace/page/assets' },
  server: { entry: 'src/server/main.ts', name: 'assets/app', folder: '../src/boli/server/page' },
}

/** SHA-256 over the names and contents of everything that the output depends on. */
function sourcesHash(): string {
  const below = (folder: string): string[] =>
    readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory() ? below(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`],
    )
  const files = [...below('src'), 'package.json', 'package-lock.json', 'svelte.config.js', 'tsconfig.json', 'vite.config.ts']
  const hash = createHash('sha256')
  for (const file of files.sort()) {
    const content = readFileSync(join(root, file))
    hash.update(`${file}\n${content.length}\n`).update(content)
  }
  return hash.digest('hex')
}

/** Adds the hash of the sources, and to the server's page the HTML that loads it. */
const beside = (server: boolean): Plugin => ({
  name: 'beside',
  generateBundle() {
    this.emitFile({ type: 'asset', fileName: 'sources.sha256', source: `${sourcesHash()}\n` })
    if (!server) return
    for (const [fileName, source] of [['index.html', 'index.html'], ['assets/icon.svg', 'icon.svg']] as const) {
      this.emitFile({ type: 'asset', fileName, source: readFileSync(join(root, 'src/server', source)) })
    }
  },
})

export default defineConfig(({ mode }) => {
  const page = pages[mode === 'server' ? 'server' : 'trace']
  return {
    plugins: [svelte(), beside(mode === 'server')],
    define: { 'process.env.NODE_ENV': '"production"' },
    build: {
      target: 'es2022',
      outDir: page.folder,
      emptyOutDir: true,
      reportCompressedSize: false,
      lib: { entry: page.entry, formats: ['iife'], name: 'boli', fileName: () => `${page.name}.js`, cssFileName: page.name },
    },
  }
})
