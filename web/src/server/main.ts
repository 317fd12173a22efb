import { mount } from 'svelte'
import '../lib/page.css'
import App from './App.svelte'

mount(App, { target: document.body })
