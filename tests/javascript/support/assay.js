/** A server with prepared answers, behind the page's own client of the API. */

import { Api } from "../../../service/web/api.js"
import { Session } from "../../../service/web/session.js"
import { Clock } from "./clocks.js"

/** @typedef {{status?: number, json?: unknown, headers?: Record<string, string>}} Answer */
/** @typedef {Answer | (() => Answer | Promise<Answer>)} Prepared */
/** @typedef {{line: string, body: any, headers: Headers}} Received */

/**
 * A server that answers each request line, such as `POST /files`, from a list of prepared answers.
 * The last response of a list is repeated.
 */
export class Assay {
  /** @param {Record<string, Prepared | Prepared[]>} answers */
  constructor(answers) {
    this.answers = new Map(Object.entries(answers).map(([line, list]) => [line, [list].flat()]))
    this.received = /** @type {Received[]} */ ([])
    this.clock = new Clock()
    this.session = new Session()
    this.session.key = "assay_key"
    const root = new URL("http://assay.test/")
    this.api = new Api(this.session, root, (...sent) => this.fetch(...sent), this.clock)
  }

  /** The request lines so far. */
  get lines() {
    return this.received.map(({ line }) => line)
  }

  /**
   * Return the bodies of the requests with this line.
   * @param {string} line
   */
  bodies(line) {
    return this.received.filter((request) => request.line === line).map(({ body }) => body)
  }

  /**
   * @param {URL} address
   * @param {RequestInit} options
   */
  async fetch(address, { method, body, headers, signal }) {
    signal?.throwIfAborted()
    const line = `${method} ${address.pathname}${address.search}`
    const parsed = body ? JSON.parse(String(body)) : undefined
    this.received.push({ line, body: parsed, headers: new Headers(headers) })
    const answers = this.answers.get(line)
    /** @type {Answer} */
    const missing = { status: 400, json: { detail: `the test has no response to ${line}` } }
    const prepared = (answers && answers.length > 1 ? answers.shift() : answers?.[0]) ?? missing
    const answer = typeof prepared === "function" ? await prepared() : prepared
    signal?.throwIfAborted()
    const { status = 200, json = {}, headers: sent } = answer
    return new Response(status === 204 ? null : JSON.stringify(json), { status, headers: sent })
  }
}

/**
 * Return the response with a problem document.
 * @param {number} status
 * @param {string} kind the problem's type without its prefix
 * @returns {Answer}
 */
export function refuse(status, kind) {
  return { status, json: { type: `urn:assay:problem:${kind}`, detail: `This is ${kind}.` } }
}

/**
 * A store that keeps what is delivered to it. It answers from a list of statuses, and then 200.
 */
export class Store {
  /** @param {number[]} statuses */
  constructor(statuses = []) {
    this.statuses = statuses
    this.puts = /** @type {{url: string, body: Blob}[]} */ ([])
    this.inFlight = 0
    this.mostInFlight = 0
  }

  /** @type {import("../../../service/web/sending.js").Deliver} */
  deliver = async (signed, body, { signal, progress }) => {
    signal.throwIfAborted()
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight)
    try {
      progress(Math.floor(body.size / 2))
      await this.clock.pause(0, signal)
    } finally {
      this.inFlight--
    }
    this.puts.push({ url: signed.url, body })
    const status = this.statuses.shift() ?? 200
    if (status < 300) progress(body.size)
    return { status, code: status < 300 ? "" : "Refused" }
  }

  clock = new Clock()
}
