/**
 * One file on its way: `waiting → starting → sending → proving → ready`, or `rejected`, `failed`, `cancelled`; `paused` in between.
 *
 * 1. Begin. Known from before a reload: ask what became of it. Still open, and the file is the same (size and time by its entry's name, and
 *    the digest of some bytes that were sent): go on with it. Another file now: say so, begin anew. Not known: declare it, once, whatever
 *    answers get lost (`Idempotency-Key`); remember it before the first byte goes.
 * 2. Send, in one PUT or in parts. 412: the bytes are there. 403: the URL has ended, get a fresh one. 400 and others: fail.
 *    No answer, 408, 429, 5xx: again, after growing waits. `upload` says 409: the bytes are there.
 * 3. Complete. Parts are missing: back to 1, which finds out what there is. The store lost the upload, or its time ended: declare anew.
 * 4. The proof comes by an event, or by asking. Whatever comes first settles it.
 * 5. Pause ends what is in flight and keeps the rest. Cancel deletes the file; what it left is the server's to tidy up.
 */

import { Refused } from "./api.js"
import { CAN_DIGEST, digestPiece } from "./digests.js"
import { forget, identify, recall, recallOther, remember } from "./resumable.js"
import { Again, sendParts } from "./parts.js"
import { retry } from "./retries.js"
import { put } from "./sending.js"
import { sayError, sayRejection, sayStoreRefusal, sayUnavailable } from "./words.js"

const LARGEST_WHOLE_DIGEST_BYTES = 64 * 1024 ** 2
const MOST_BEGINNINGS = 4
const MOST_FRESH_URLS = 4
const MOST_SILENT_TRIES = 5
const LASTING = " If this stays, tell whoever runs it: the store must be reachable from here, and allow this page."
/** States that nothing more comes after by itself. */
export const SETTLED = new Set(["ready", "rejected", "failed", "cancelled"])

export class Upload extends EventTarget {
  /** @param {import("./api.js").Api} api @param {File} file @param {string} path with its folders, as it was chosen */
  constructor(api, file, path) {
    super()
    this.api = api
    this.file = file
    this.path = path
    this.identity = identify(file, path)
    this.state = "waiting"
    this.id = ""
    this.hash = ""
    this.sent = 0
    this.note = ""
    this.hindrance = ""
    this.sample = /** @type {import("./resumable.js").Sample | null} */ (null)
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

  /** From the beginning, or from where it was, until it is complete, paused, or fails. Throws nothing. */
  async run() {
    this.controller = new AbortController()
    const { signal } = this.controller
    this.change("starting")
    try {
      await this.tryAgain(signal)
    } catch (error) {
      if (!signal.aborted) this.change("failed", sayFailure(error))
    }
  }

  /** @param {AbortSignal} signal */
  async tryAgain(signal) {
    for (let beginnings = 1; ; beginnings++) {
      try {
        const way = await this.begin(signal)
        if (SETTLED.has(this.state)) return
        if (way) await this.send(way, signal)
        await this.complete(signal)
        return
      } catch (error) {
        if (!(error instanceof Again) || beginnings === MOST_BEGINNINGS) throw error
        signal.throwIfAborted()
        if (error.anew) await this.beginAnew(error.message)
      }
    }
  }

  /** @param {string} why */
  async beginAnew(why) {
    this.id = ""
    this.sent = 0
    this.sample = null
    await forget(this.identity)
    this.change("starting", why)
  }

  /** How to send the bytes; null: they are there. @param {AbortSignal} signal @returns {Promise<any>} */
  async begin(signal) {
    if (this.id) return this.renew(signal)
    const entry = await recall(this.identity)
    if (entry && await this.takeUp(entry, signal)) return this.state === "starting" ? this.renew(signal) : null
    if (!entry && await recallOther(this.path, this.identity)) {
      this.change("starting", "It has changed on this device since it was last sent, so it goes as a new file.")
    }
    return this.declare(signal)
  }

  /** Whether what was begun earlier can go on. @param {import("./resumable.js").Entry} entry @param {AbortSignal} signal */
  async takeUp(entry, signal) {
    const known = await this.findKnown(entry.id, signal)
    if (!known || !["pending", "verifying", "ready"].includes(known.state)) {
      await forget(this.identity)
      return false
    }
    const isSame = await this.isSame(entry.sample)
    signal.throwIfAborted()
    if (!isSame) {
      if (known.state === "pending") await this.api.retry("DELETE", `files/${entry.id}`, { signal })
      await this.beginAnew("Its content has changed on this device since it was sent in part, so it begins anew.")
      return false
    }
    this.id = entry.id
    this.sample = entry.sample
    this.wasThere = known.state === "ready"
    if (known.state === "pending") this.change("starting", "Goes on where it was.")
    else this.settle(known, this.wasThere ? "Was sent before: it is there already." : "")
    return true
  }

  /** @param {string} id @param {AbortSignal} signal */
  async findKnown(id, signal) {
    try {
      return await this.api.retry("GET", `files/${id}/metadata`, { signal, say: this.say })
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return null
      throw error
    }
  }

  /** @param {import("./resumable.js").Sample | null} sample */
  async isSame(sample) {
    if (!sample || !CAN_DIGEST) return true
    return await digestPiece(this.file.slice(sample.start, sample.end)) === sample.sha256
  }

  /** @param {AbortSignal} signal */
  async declare(signal) {
    const { name, size, type } = this.file
    const sha256 = size <= LARGEST_WHOLE_DIGEST_BYTES ? await digestPiece(this.file) : undefined
    const metadata = this.path === name ? undefined : { path: this.path }
    const body = { filename: name, size, content_type: type || undefined, sha256, metadata }
    const headers = { "Idempotency-Key": makeKey() }
    const declared = await this.api.retry("POST", "files", { body, headers, signal, say: this.say })
    this.id = declared.file.id
    await this.remember(sha256 ? { start: 0, end: size, sha256 } : null)
    return declared.upload
  }

  /** What a later choice of the same file is compared with. @param {import("./resumable.js").Sample | null} sample */
  async remember(sample) {
    this.sample = sample
    await remember({ identity: this.identity, path: this.path, size: this.file.size, id: this.id, at: Date.now(), sample })
  }

  /** @param {AbortSignal} signal */
  async renew(signal) {
    try {
      return (await this.api.retry("POST", `files/${this.id}/upload`, { signal, say: this.say })).upload
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.kind === "already-uploaded") return null
      if (error.status === 410 || error.status === 404) throw new Again("The earlier upload's time had ended, so it begins anew.", true)
      throw error
    }
  }

  /** @param {any} way the API's `upload` @param {AbortSignal} signal */
  async send(way, signal) {
    this.change("sending")
    if (way.multipart) await sendParts(this, way.multipart, signal)
    else await this.sendWhole(way, signal)
    this.progress(this.file.size)
  }

  /** @param {any} way @param {AbortSignal} signal */
  async sendWhole(way, signal) {
    this.sent = 0
    const progress = (/** @type {number} */ sent) => this.progress(sent)
    for (let urls = 1; way; urls++) {
      const { status, code } = await retry(() => put(way, this.file, { signal, progress }), { signal, say: this.say })
      if (status < 300 || status === 412) return
      if (status !== 403 || urls === MOST_FRESH_URLS) throw new Error(sayStoreRefusal(status, code))
      way = await this.renew(signal)
    }
  }

  /** @param {AbortSignal} signal */
  async complete(signal) {
    this.change("proving")
    try {
      this.settle(await this.api.retry("POST", `files/${this.id}/complete`, { body: {}, signal, say: this.say }))
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.kind === "incomplete-parts" || error.kind === "not-uploaded") throw new Again(error.message, false)
      if (error.kind === "upload-lost") throw new Again("The store had lost what was sent, so it begins anew.", true)
      throw error
    }
  }

  /** What the server says it is. @param {Record<string, any>} known the file's metadata, or as much of it as an event has */
  settle(known, note = "") {
    if (SETTLED.has(this.state)) return
    if (known.state === "ready") {
      this.hash = known.hash
      this.sent = this.file.size
      this.change("ready", note)
    } else if (known.state === "rejected") {
      void forget(this.identity)
      this.change("rejected", sayRejection(known.rejection))
    } else if (known.state === "deleted" || known.state === "expired") {
      this.controller.abort()
      void forget(this.identity)
      this.change("failed", known.state === "deleted" ? "The file was deleted meanwhile." : "The time for its upload has ended. Send it again.")
    } else if (known.state === "verifying" && !this.isRunning) this.change("proving", note)
  }

  pause() {
    if (!this.isRunning && this.state !== "waiting") return
    this.controller.abort()
    this.change("paused", "")
  }

  /** Into the queue again. @param {boolean} anew as another file, whatever was sent before */
  async queue(anew = false) {
    if (anew || this.state === "rejected") await this.beginAnew("")
    this.wasThere = false
    this.change("waiting", "")
  }

  async cancel() {
    this.controller.abort()
    this.change("cancelled", "")
    await forget(this.identity)
    if (this.id) await this.api.retry("DELETE", `files/${this.id}`, { signal: AbortSignal.timeout(60_000) })
  }

  /** Never backwards within a run: what is sent again is not shown again. @param {number} sent */
  progress(sent) {
    this.sent = Math.min(this.file.size, Math.max(this.sent, sent))
    this.dispatchEvent(new Event("progress"))
  }

  /** @type {import("./retries.js").Say} */
  say = (waiting) => {
    if (waiting === null) this.hindrance = ""
    else if (waiting.offline) this.hindrance = "This device is offline: goes on by itself when the network is back."
    else this.hindrance = `${sayUnavailable(waiting.error)}: tries again by itself.${waiting.tries > MOST_SILENT_TRIES ? LASTING : ""}`
    this.dispatchEvent(new Event("change"))
  }
}

/** @param {unknown} error */
function sayFailure(error) {
  if (error instanceof DOMException && (error.name === "NotReadableError" || error.name === "NotFoundError")) {
    return "The file cannot be read any more: it was changed, moved or removed on this device. Choose it again."
  }
  return sayError(error)
}

/** 128 random bits; `crypto.randomUUID` is missing over plain http. */
function makeKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("")
}
