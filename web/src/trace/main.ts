import { mount } from 'svelte'
import '../lib/page.css'
import Trace from './Trace.svelte'

// What a page can be asked for from outside: in tests, and in a browser's console.
export { openEmbedded } from '../lib/open'
export { sift } from '../lib/sieve'

mount(Trace, { target: document.body, props: { embedded: document.getElementById('document')?.textContent ?? '' } })
