/**
 * Polling for the verdicts on uploaded files. Without a stream of events, the page polls all the
 * time. With a stream, it polls only every half minute or less often, because an event may be lost.
 */

import { Refused } from "./api.js"
import { BROWSER } from "./retries.js"

const POLLS_AT_ONCE = 2
const WAIT_SECONDS = 10
const LOOK_MILLISECONDS = 500
const SELDOM_MILLISECONDS = 30_000

/** @typedef {import("./upload.js").Upload} Upload */

export class Verification {
  /**
   * @param {Pick<import("./api.js").Api, "retry">} api
   * @param {Pick<import("./uploads.js").Uploads, "proving">} uploads
   * @param {Pick<import("./events.js").Events, "isMissing">} events
   * @param {import("./retries.js").Environment} environment
   */
  constructor(api, uploads, events, environment = BROWSER) {
    this.api = api
    this.uploads = uploads
    this.events = events
    this.environment = environment
    this.polled = /** @type {Set<Upload>} */ (new Set())
    this.controller = new AbortController()
  }

  /** Poll until `close` is called. */
  open() {
    this.controller = new AbortController()
    for (let lane = 0; lane < POLLS_AT_ONCE; lane++) {
      void this.pollRepeatedly(lane, this.controller.signal)
    }
  }

  close() {
    this.controller.abort()
  }

  /**
   * @param {number} lane the lanes poll at different intervals
   * @param {AbortSignal} signal
   */
  async pollRepeatedly(lane, signal) {
    const interval = SELDOM_MILLISECONDS * (lane + 1)
    let polledAt = performance.now()
    try {
      for (;;) {
        await this.environment.pause(LOOK_MILLISECONDS, signal)
        const { isMissing } = this.events
        if (!isMissing && performance.now() < polledAt + interval) continue
        polledAt = performance.now()
        for (const upload of this.uploads.proving) {
          await this.poll(upload, isMissing ? WAIT_SECONDS : 0, signal)
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  /** Poll once for every upload without a verdict, because events were missed. */
  async pollAll() {
    const { signal } = this.controller
    for (const upload of this.uploads.proving) await this.poll(upload, 0, signal)
  }

  /**
   * Read the state of an upload's file, and apply it to the upload. The uploads for which a poll is
   * in progress, and those that have a verdict, are skipped.
   * @param {Upload} upload
   * @param {number} wait how many seconds the server may wait for the verdict
   * @param {AbortSignal} signal
   */
  async poll(upload, wait, signal) {
    if (this.polled.has(upload) || upload.state !== "proving") return
    this.polled.add(upload)
    try {
      const path = `files/${upload.id}/metadata?wait=${wait}`
      upload.settle(await this.api.retry("GET", path, { signal }))
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      // A 404 means that the file was deleted long ago, and that its row is gone.
      if (error.status === 404) upload.settle({ state: "deleted" })
    } finally {
      this.polled.delete(upload)
    }
  }
}
