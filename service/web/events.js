/**
 * What happens to the owner's files, as the server tells it: one stream, read with `fetch`, because `EventSource` cannot send a key.
 *
 * 1. Open `/events`; after a break with `Last-Event-ID`, so that nothing is missed.
 * 2. Each event: told on. `reset`: what was missed cannot be told, so everything is asked again.
 * 3. The stream ends, or 60 s are silent (the server says something every 15): open it again, with growing steps.
 * 4. 404: this server has no stream. `missing` is told, once; whoever wants to know asks by itself.
 * 5. Nobody looks at the page and nothing is under way: close it, for a browser has few connections; open it when somebody looks.
 *
 * Events: `transition` (`detail`: the server's JSON), `reset`, `missing`.
 */

import { Refused, Unreachable } from "./api.js"
import { retry, pause } from "./retries.js"

const SILENT_MILLISECONDS = 60_000

export class Events extends EventTarget {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super()
    this.api = api
    this.lastId = ""
    this.isMissing = false
    this.wasOpen = false
    this.controller = /** @type {AbortController | null} */ (null)
  }

  open() {
    if (this.controller || this.isMissing) return
    this.controller = new AbortController()
    void this.follow(this.controller.signal)
  }

  /** From now on: the server no longer knows the last id. */
  begin() {
    this.lastId = ""
    this.dispatchEvent(new Event("reset"))
    this.open()
  }

  close() {
    this.controller?.abort()
    this.controller = null
  }

  /** Another owner's events are others. */
  forget() {
    this.close()
    this.lastId = ""
    this.wasOpen = false
    this.isMissing = false
  }

  /** @param {AbortSignal} signal */
  async follow(signal) {
    try {
      for (;;) {
        await retry(() => this.readOnce(signal), { signal })
        await pause(500 + Math.random() * 1000, signal)
      }
    } catch (error) {
      if (signal.aborted) return
      this.controller = null
      if (error instanceof Refused && error.status === 401) return // the session asks for another key, and opens again
      if (error instanceof Refused && error.status === 400 && this.lastId) return this.begin()
      this.isMissing = true
      this.dispatchEvent(new Event("missing"))
    }
  }

  /** One connection, to its end. Throws when nothing came of it. @param {AbortSignal} signal */
  async readOnce(signal) {
    const quiet = new AbortController()
    let received = 0
    let watch = setTimeout(() => quiet.abort(), SILENT_MILLISECONDS)
    try {
      const headers = /** @type {Record<string, string>} */ (this.lastId ? { "Last-Event-ID": this.lastId } : {})
      const answer = await this.api.fetch("GET", "events", { signal: AbortSignal.any([signal, quiet.signal]), headers })
      if (this.wasOpen && !this.lastId) this.dispatchEvent(new Event("reset"))
      this.wasOpen = true
      const parser = new EventParser((event) => this.tell(event))
      const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader()
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        clearTimeout(watch)
        watch = setTimeout(() => quiet.abort(), SILENT_MILLISECONDS)
        received += piece.value.length
        parser.read(piece.value)
      }
    } catch (error) {
      if (error instanceof Refused) throw error
    } finally {
      clearTimeout(watch)
    }
    if (!received) throw new Unreachable("the stream of events")
  }

  /** @param {ServerEvent} event */
  tell(event) {
    if (event.id) this.lastId = event.id
    if (event.type === "reset") this.dispatchEvent(new Event("reset"))
    else if (event.type === "transition") this.dispatchEvent(new CustomEvent("transition", { detail: JSON.parse(event.data) }))
  }
}

/** @typedef {{type: string, id: string, data: string}} ServerEvent */

/** Server-Sent Events out of pieces of bytes that may end anywhere (HTML standard, 9.2.6). */
export class EventParser {
  /** @param {(event: ServerEvent) => void} tell */
  constructor(tell) {
    this.tell = tell
    this.decoder = new TextDecoder()
    this.rest = ""
    this.event = { type: "message", id: "", data: "" }
  }

  /** @param {Uint8Array} bytes */
  read(bytes) {
    const lines = (this.rest + this.decoder.decode(bytes, { stream: true })).split("\n")
    this.rest = lines.pop() ?? ""
    for (const line of lines) this.readLine(line.replace(/\r$/, ""))
  }

  /** @param {string} line */
  readLine(line) {
    if (line === "") return this.finish()
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? []
    if (field === "data") this.event.data += this.event.data ? `\n${value}` : value
    else if (field === "event") this.event.type = value
    else if (field === "id") this.event.id = value
  }

  finish() {
    if (this.event.data || this.event.id) this.tell(this.event)
    this.event = { type: "message", id: "", data: "" }
  }
}
