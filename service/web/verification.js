/**
 * Asks what became of files that are being proved: all the time where the server has no stream of events, else now and then, because an
 * event is a hint that may be lost.
 */

import { Refused } from "./api.js"
import { pause } from "./retries.js"

const ASKED_AT_ONCE = 2
const WAIT_SECONDS = 10
const LOOK_MILLISECONDS = 500
const SELDOM_MILLISECONDS = 30_000

export class Proofs {
  /** @param {import("./api.js").Api} api @param {import("./uploads.js").Uploads} uploads @param {import("./events.js").Events} events */
  constructor(api, uploads, events) {
    this.api = api
    this.uploads = uploads
    this.events = events
    this.asked = new Set()
    this.controller = new AbortController()
  }

  /** Until `close`. */
  open() {
    this.controller = new AbortController()
    for (let lane = 0; lane < ASKED_AT_ONCE; lane++) void this.askOneByOne(lane, this.controller.signal)
  }

  close() {
    this.controller.abort()
  }

  /** @param {number} lane @param {AbortSignal} signal */
  async askOneByOne(lane, signal) {
    try {
      for (let askedAt = performance.now(); ; ) {
        await pause(LOOK_MILLISECONDS, signal)
        const { isMissing } = this.events
        if (!isMissing && performance.now() < askedAt + SELDOM_MILLISECONDS * (lane + 1)) continue
        askedAt = performance.now()
        for (const upload of this.uploads.proving) await this.ask(upload, isMissing ? WAIT_SECONDS : 0, signal)
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  /** Everything that is being proved, at once: events were missed. */
  async askAll() {
    const { signal } = this.controller
    for (const upload of this.uploads.proving) await this.ask(upload, 0, signal)
  }

  /** @param {import("./upload.js").Upload} upload @param {number} wait seconds @param {AbortSignal} signal */
  async ask(upload, wait, signal) {
    if (this.asked.has(upload) || upload.state !== "proving") return
    this.asked.add(upload)
    try {
      upload.settle(await this.api.retry("GET", `files/${upload.id}/metadata?wait=${wait}`, { signal }))
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.status === 404) upload.settle({ state: "deleted" }) // and so long ago that its row is gone
    } finally {
      this.asked.delete(upload)
    }
  }
}
