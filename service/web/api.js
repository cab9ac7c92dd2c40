/**
 * Requests to the API, by the key of whoever is signed in.
 *
 * 1. An answer: its JSON.
 * 2. A refusal that another try would not change: `Refused`, with the problem document.
 * 3. No answer, or one that may be another next time (408, 429, 5xx): `retry` waits and asks again; `ask` throws.
 * 4. 401 in the middle of the work: the key has ended. `retry` waits until somebody has signed in again, then goes on.
 */

import { retry } from "./retries.js"

/** Where the API is, whatever path a proxy puts in front. */
export const ROOT = new URL(".", document.baseURI)
const PREFIX = "urn:assay:problem:"

/** An answer that says no. `kind` is the problem's type without its prefix. */
export class Refused extends Error {
  /** @param {number} status @param {Record<string, any>} problem @param {number} retryAfter seconds, 0: nothing was said */
  constructor(status, problem, retryAfter = 0) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`)
    this.status = status
    this.problem = problem
    this.kind = String(problem.type ?? "").replace(PREFIX, "")
    this.retryAfter = retryAfter
  }

  get isPassing() {
    return this.status >= 500 && this.status !== 501 || this.status === 408 || this.status === 429
  }
}

/** No answer at all: the network, the server, or a page that may not ask. */
export class Unreachable extends Error {
  /** @param {string} whom */
  constructor(whom) {
    super(`${whom} does not answer`)
    this.whom = whom
    this.isPassing = true
    this.retryAfter = 0
  }
}

/** @typedef {{body?: unknown, signal?: AbortSignal, headers?: Record<string, string>, say?: import("./retries.js").Say}} Options */

export class Api {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session
  }

  /**
   * The answer as it comes, for streams too.
   * @param {string} method @param {string} path relative to the API's root @param {Options} options
   */
  async fetch(method, path, { body, signal, headers } = {}) {
    const sent = /** @type {Record<string, string>} */ ({ Authorization: `Bearer ${this.session.key}`, ...headers })
    if (body !== undefined) sent["Content-Type"] = "application/json"
    const key = this.session.key
    let answer
    try {
      answer = await fetch(new URL(path, ROOT), {
        method, headers: sent, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", credentials: "omit",
      })
    } catch (error) {
      if (signal?.aborted) throw error
      throw new Unreachable("the server")
    }
    if (answer.ok) return answer
    const refused = new Refused(answer.status, await readProblem(answer), Number(answer.headers.get("Retry-After")) || 0)
    if (answer.status === 401) this.session.lose(key)
    throw refused
  }

  /**
   * One request, and its answer's JSON.
   * @param {string} method @param {string} path @param {Options} options @returns {Promise<any>}
   */
  async ask(method, path, options = {}) {
    const answer = await this.fetch(method, path, options)
    if (answer.status === 204) return null
    try {
      return await answer.json()
    } catch (error) {
      if (options.signal?.aborted) throw error
      throw new Unreachable("the server")
    }
  }

  /**
   * Until there is an answer that asking again would not change.
   * @param {string} method @param {string} path @param {Options & {signal: AbortSignal}} options @returns {Promise<any>}
   */
  async retry(method, path, options) {
    for (;;) {
      try {
        return await retry(() => this.ask(method, path, options), options)
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 401) throw error
        await this.session.whenSignedIn(options.signal)
      }
    }
  }
}

/** @param {Response} answer @returns {Promise<Record<string, any>>} */
async function readProblem(answer) {
  try {
    const problem = await answer.json()
    return typeof problem === "object" && problem ? problem : {}
  } catch {
    return {}
  }
}
