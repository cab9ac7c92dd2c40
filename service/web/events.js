/**
 * The transitions of the owner's files, as the server sends them. The page reads one stream with
 * `fetch`, because `EventSource` cannot send an API key.
 *
 * 1. Open `/events`. After a connection has ended, send `Last-Event-ID`, so that no transition is
 *    missed.
 * 2. Dispatch each event. `reset` means that the server no longer has the missed transitions, or
 *    does not know the id, so the page reads the files' states again.
 * 3. The connection ends, or is silent for 60 s (the server sends a comment every 15 s): open
 *    another one, after growing delays.
 *    - 401: stop. The page opens the stream again when the user has signed in.
 * 4. Any other refusal, such as 404: this server has no stream. Dispatch `missing` once. The page
 *    then polls the states.
 * 5. The page is hidden and no upload is in progress: the page closes the stream, because a browser
 *    allows few connections to one server. It opens the stream again when it becomes visible.
 *
 * Events: `transition` (`detail` is the server's JSON), `reset`, `missing`.
 */

import { Refused, Unreachable } from "./api.js"
import { BROWSER, retry } from "./retries.js"

export const SILENT_MILLISECONDS = 60_000
const SHORTEST_PAUSE_MILLISECONDS = 500
const RANDOM_PAUSE_MILLISECONDS = 1000

/**
 * @typedef {object} Transition
 * @property {string} file_id
 * @property {string} state
 * @property {string | null} hash
 * @property {string} filename
 * @property {string | null} why
 */

export class Events extends EventTarget {
  /**
   * @param {Pick<import("./api.js").Api, "fetch">} api
   * @param {import("./retries.js").Environment} environment
   */
  constructor(api, environment = BROWSER) {
    super()
    this.api = api
    this.environment = environment
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

  close() {
    this.controller?.abort()
    this.controller = null
  }

  /** Close the stream, and drop its position: the next stream may belong to another owner. */
  forget() {
    this.close()
    this.lastId = ""
    this.wasOpen = false
    this.isMissing = false
  }

  /**
   * Read one connection after the other until `signal` is aborted or the server refuses the stream.
   * @param {AbortSignal} signal
   */
  async follow(signal) {
    const { environment } = this
    try {
      for (;;) {
        await retry(() => this.readOnce(signal), { signal, environment })
        const randomPart = environment.random() * RANDOM_PAUSE_MILLISECONDS
        await environment.pause(SHORTEST_PAUSE_MILLISECONDS + randomPart, signal)
      }
    } catch (error) {
      if (signal.aborted) return
      this.controller = null
      this.stop(error)
    }
  }

  /** @param {unknown} error what ended the stream */
  stop(error) {
    const status = error instanceof Refused ? error.status : 0
    if (status === 401) return
    this.isMissing = true
    this.dispatchEvent(new Event("missing"))
  }

  /**
   * Read one connection to its end. Throw Refused if the server refuses the stream, and Unreachable
   * if the connection ends before any byte.
   * @param {AbortSignal} signal
   */
  async readOnce(signal) {
    const silence = new AbortController()
    const stopReading = () => silence.abort()
    let receivedBytes = 0
    let timer = setTimeout(stopReading, SILENT_MILLISECONDS)
    try {
      const answer = await this.api.fetch("GET", "events", {
        signal: AbortSignal.any([signal, silence.signal]),
        headers: this.lastId ? { "Last-Event-ID": this.lastId } : {},
      })
      if (this.wasOpen && !this.lastId) this.dispatchEvent(new Event("reset"))
      this.wasOpen = true
      const parser = new EventParser((event) => this.dispatch(event))
      const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader()
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        clearTimeout(timer)
        timer = setTimeout(stopReading, SILENT_MILLISECONDS)
        receivedBytes += piece.value.length
        parser.read(piece.value)
      }
    } catch (error) {
      if (error instanceof Refused) throw error
    } finally {
      clearTimeout(timer)
    }
    if (!receivedBytes) throw new Unreachable("the stream of events")
  }

  /** @param {ServerEvent} event */
  dispatch(event) {
    if (event.id !== undefined) this.lastId = event.id
    if (event.type === "reset") this.dispatchEvent(new Event("reset"))
    else if (event.type === "transition" && event.data) {
      const detail = /** @type {Transition} */ (JSON.parse(event.data))
      this.dispatchEvent(new CustomEvent("transition", { detail }))
    }
  }
}

/** @typedef {{type: string, id?: string, data?: string}} ServerEvent */

/** A parser of Server-Sent Events (HTML standard, 9.2.6). A chunk of bytes may end anywhere. */
export class EventParser {
  /** @param {(event: ServerEvent) => void} dispatch */
  constructor(dispatch) {
    this.dispatch = dispatch
    this.decoder = new TextDecoder()
    this.unfinishedLine = ""
    /** @type {ServerEvent} */
    this.event = { type: "message" }
  }

  /** @param {Uint8Array} bytes */
  read(bytes) {
    const text = this.unfinishedLine + this.decoder.decode(bytes, { stream: true })
    // A CR at the end of the text may be the first half of a CRLF.
    const lines = text.split(/\r\n|\n|\r(?!$)/)
    this.unfinishedLine = lines.pop() ?? ""
    for (const line of lines) this.readLine(line)
  }

  /** @param {string} line */
  readLine(line) {
    if (line === "") {
      this.finish()
      return
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
    const { data } = this.event
    if (field === "data") this.event.data = data === undefined ? value : `${data}\n${value}`
    else if (field === "event") this.event.type = value || "message"
    else if (field === "id" && !value.includes("\0")) this.event.id = value
  }

  finish() {
    const { data, id } = this.event
    if (data !== undefined || id !== undefined) this.dispatch(this.event)
    this.event = { type: "message" }
  }
}
