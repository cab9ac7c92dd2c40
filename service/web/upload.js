/**
 * The upload of one file. Its states are `waiting → starting → sending → proving → ready`, or
 * `rejected`, `failed` or `cancelled` at the end, with `paused` in between.
 *
 * 1. Begin. If this browser has an entry for the file, ask the server for the file's state.
 *    - `pending`, and the file on this device is unchanged: continue that upload. (The entry names
 *      the size and the modification time, and has the digest of some bytes that were sent.)
 *    - The file on this device has changed: say so, and start as a new file.
 *    - No entry, or another state: declare the file. The `Idempotency-Key` makes sure that a lost
 *      response leads to no second file. Write the entry before the first byte is sent.
 * 2. Send the bytes in one PUT or in parts.
 *    - 412: the store already has the bytes. 403: the URL has expired, so get a fresh one.
 *    - 400 and other refusals: fail.
 *    - No response, 408, 429 or 5xx: repeat, with growing delays.
 *    - `POST …/upload` answers 409: the store already has the bytes.
 * 3. Complete.
 *    - Parts are missing: back to step 1, which finds out what the store has.
 *    - The store lost the upload, or it has expired: declare the file again.
 * 4. The verdict comes by an event or by polling. The first of them settles the upload.
 * 5. A pause ends the requests in flight and keeps what was sent. Cancelling deletes the file. The
 *    server then removes what is left of it.
 */

import { findMetadata, Refused } from "./api.js"
import { digestPiece, makeKey } from "./digests.js"
import { sendParts, StartAgain } from "./parts.js"
import { forget, identify, matchesSample, recall, recallOther, remember } from "./resumable.js"
import { deliver, sendWhole } from "./sending.js"
import { sayFailure, sayRejection, sayWaiting } from "./words.js"

const CHANGED = "The file has changed on this device since then."
const LARGEST_WHOLE_DIGEST_BYTES = 64 * 1024 ** 2
const MOST_STARTS = 4
const CANCEL_MILLISECONDS = 60_000
/** The states that an upload leaves only by an action of the user. */
export const SETTLED = new Set(["ready", "rejected", "failed", "cancelled"])

/** @typedef {import("./api.js").FileMetadata} FileMetadata */
/** @typedef {import("./resumable.js").Sample} Sample */
/** @typedef {{multipart: import("./parts.js").Plan}} Multipart */
/** @typedef {import("./sending.js").Signed | Multipart} Way the API's `upload` object */
/** @typedef {{state: string} & Partial<Pick<FileMetadata, "hash" | "rejection">>} Known */

export class Upload extends EventTarget {
  /**
   * @param {Pick<import("./api.js").Api, "retry">} api
   * @param {File} file
   * @param {string} path the name of the file, with the folders below the chosen one
   * @param {import("./sending.js").Deliver} send
   */
  constructor(api, file, path, send = deliver) {
    super()
    this.api = api
    this.file = file
    this.path = path
    this.deliver = send
    this.identity = identify(file, path)
    this.state = "waiting"
    this.id = ""
    this.hash = ""
    this.sent = 0
    this.note = ""
    this.hindrance = ""
    this.sample = /** @type {Sample | null} */ (null)
    this.wasThere = false
    this.controller = new AbortController()
  }

  get isRunning() {
    return this.state === "starting" || this.state === "sending"
  }

  /** @param {string} state @param {string} [note] */
  change(state, note = this.note) {
    this.state = state
    this.note = note
    if (!this.isRunning) this.hindrance = ""
    this.dispatchEvent(new Event("change"))
  }

  /** Upload the file until it is complete, paused or failed. Errors become the state `failed`. */
  async run() {
    this.controller = new AbortController()
    const { signal } = this.controller
    this.change("starting")
    try {
      await this.startUntilSent(signal)
    } catch (error) {
      if (!signal.aborted) this.change("failed", sayFailure(error))
    }
  }

  /** @param {AbortSignal} signal */
  async startUntilSent(signal) {
    for (let starts = 1; ; starts++) {
      try {
        const way = await this.begin(signal)
        if (SETTLED.has(this.state)) return
        if (way) await this.send(way, signal)
        await this.complete(signal)
        return
      } catch (error) {
        if (!(error instanceof StartAgain) || starts === MOST_STARTS) throw error
        signal.throwIfAborted()
        if (error.asNewFile) await this.dropProgress(error.message, signal)
      }
    }
  }

  /**
   * @param {string} why
   * @param {AbortSignal} [signal]
   */
  async dropProgress(why, signal) {
    this.id = ""
    this.sent = 0
    this.sample = null
    await forget(this.identity)
    signal?.throwIfAborted()
    this.change("starting", why)
  }

  /**
   * Return how to send the bytes, or null if the store already has them.
   * @param {AbortSignal} signal
   * @returns {Promise<Way | null>}
   */
  async begin(signal) {
    if (this.id) return this.renew(signal)
    const entry = await recall(this.identity)
    if (entry && (await this.resume(entry, signal))) {
      return this.state === "starting" ? this.renew(signal) : null
    }
    const other = entry ? undefined : await recallOther(this.path, this.identity)
    signal.throwIfAborted()
    if (other) {
      this.change("starting", `${CHANGED} It is sent as a new file.`)
    }
    return this.declare(signal)
  }

  /**
   * Return whether an earlier upload of the file can be continued.
   * @param {import("./resumable.js").Entry} entry
   * @param {AbortSignal} signal
   */
  async resume(entry, signal) {
    const known = await findMetadata(this.api, entry.id, { signal, say: this.say })
    if (!known || !["pending", "verifying", "ready"].includes(known.state)) {
      await forget(this.identity)
      return false
    }
    const isUnchanged = await matchesSample(this.file, entry.sample)
    signal.throwIfAborted()
    if (!isUnchanged) {
      if (known.state === "pending") await this.api.retry("DELETE", `files/${entry.id}`, { signal })
      await this.dropProgress(`${CHANGED} Restarting the upload.`, signal)
      return false
    }
    this.id = entry.id
    this.sample = entry.sample
    this.wasThere = known.state === "ready"
    if (known.state === "pending") this.change("starting", "Continuing the earlier upload.")
    else this.settle(known, this.wasThere ? "This file was sent before and is already stored." : "")
    return true
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Way>}
   */
  async declare(signal) {
    const { name, size, type } = this.file
    const sha256 = size <= LARGEST_WHOLE_DIGEST_BYTES ? await digestPiece(this.file) : undefined
    const metadata = this.path === name ? undefined : { path: this.path }
    const body = { filename: name, size, content_type: type || undefined, sha256, metadata }
    const headers = { "Idempotency-Key": makeKey() }
    const options = { body, headers, signal, say: this.say }
    const declared = await this.api.retry("POST", "files", options)
    this.id = declared.file.id
    await this.remember(sha256 ? { start: 0, end: size, sha256 } : null)
    return declared.upload
  }

  /** @param {Sample | null} sample */
  async remember(sample) {
    this.sample = sample
    const { identity, path, id } = this
    await remember({ identity, path, size: this.file.size, id, at: Date.now(), sample })
  }

  /**
   * Return fresh URLs, or null if the store already has the bytes. Throw StartAgain if the upload
   * has expired.
   * @param {AbortSignal} signal
   * @returns {Promise<Way | null>}
   */
  async renew(signal) {
    try {
      const options = { signal, say: this.say }
      return (await this.api.retry("POST", `files/${this.id}/upload`, options)).upload
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.kind === "already-uploaded") return null
      if (error.status === 410 || error.status === 404) {
        throw new StartAgain("The earlier upload has expired. Restarting the upload.", true)
      }
      throw error
    }
  }

  /** @param {Way} way @param {AbortSignal} signal */
  async send(way, signal) {
    signal.throwIfAborted() // A paused upload stays paused.
    this.change("sending")
    if ("multipart" in way && way.multipart) await sendParts(this, way.multipart, signal)
    else await sendWhole(this, /** @type {import("./sending.js").Signed} */ (way), signal)
    this.progress(this.file.size)
  }

  /** @param {AbortSignal} signal */
  async complete(signal) {
    signal.throwIfAborted()
    this.change("proving")
    try {
      const options = { body: {}, signal, say: this.say }
      this.settle(await this.api.retry("POST", `files/${this.id}/complete`, options))
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.kind === "incomplete-parts" || error.kind === "not-uploaded") {
        throw new StartAgain(error.message, false)
      }
      if (error.kind === "upload-lost") {
        throw new StartAgain("The store lost the upload. Restarting the upload.", true)
      }
      throw error
    }
  }

  /**
   * Apply the state that the server reports. A settled upload stays as it is.
   * @param {Known} known
   * @param {string} note
   */
  settle(known, note = "") {
    if (SETTLED.has(this.state)) return
    if (known.state === "ready") {
      this.hash = known.hash ?? ""
      this.sent = this.file.size
      this.change("ready", note)
    } else if (known.state === "rejected") {
      void forget(this.identity)
      this.change("rejected", sayRejection(known.rejection))
    } else if (known.state === "deleted" || known.state === "expired") {
      this.controller.abort()
      void forget(this.identity)
      const expired = "The upload has expired. Send the file again."
      this.change("failed", known.state === "deleted" ? "The file was deleted." : expired)
    } else if (known.state === "verifying" && !this.isRunning) this.change("proving", note)
  }

  pause() {
    if (!this.isRunning && this.state !== "waiting") return
    this.controller.abort()
    this.change("paused", "")
  }

  /**
   * Put the upload into the queue again.
   * @param {boolean} asNewFile send everything again, as a new file at the server
   */
  async queue(asNewFile = false) {
    if (asNewFile || this.state === "rejected") await this.dropProgress("")
    this.wasThere = false
    this.change("waiting", "")
  }

  async cancel() {
    this.controller.abort()
    this.change("cancelled", "")
    await forget(this.identity)
    const signal = AbortSignal.timeout(CANCEL_MILLISECONDS)
    if (this.id) await this.api.retry("DELETE", `files/${this.id}`, { signal })
  }

  /**
   * Record how many bytes were sent. The number never falls, even if bytes are sent again.
   * @param {number} sent
   */
  progress(sent) {
    this.sent = Math.min(this.file.size, Math.max(this.sent, sent))
    this.dispatchEvent(new Event("progress"))
  }

  /** @type {import("./retries.js").Say} */
  say = (waiting) => {
    this.hindrance = sayWaiting(waiting)
    this.dispatchEvent(new Event("change"))
  }
}
