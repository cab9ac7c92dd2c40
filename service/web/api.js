/**
 * Requests to the API, with the key of the user.
 *
 * 1. A successful response: return its JSON.
 * 2. A response that a repetition would not change: throw `Refused`, with the problem document.
 * 3. No response, or one that may differ next time (408, 429, 5xx): `retry` waits and repeats the
 *    request, and `ask` throws the error.
 * 4. 401: the API no longer accepts the key. `retry` waits until the user has signed in again, and
 *    then repeats the request.
 */

import { BROWSER, retry } from "./retries.js"

const PREFIX = "urn:assay:problem:"
const NOT_IMPLEMENTED = 501

/** @typedef {{reason: string, detail: string}} Rejection */

/**
 * @typedef {object} FileMetadata
 * @property {string} id
 * @property {string} filename
 * @property {number} size
 * @property {string} content_type
 * @property {string | null} hash
 * @property {string | null} upload_date
 * @property {string} state
 * @property {string | null} declared_sha256
 * @property {Record<string, string>} metadata
 * @property {string} created_at
 * @property {string} expires_at
 * @property {Rejection | null} rejection
 */

/** @typedef {{field: string, detail: string}} FieldError */

/**
 * A problem document (RFC 9457). Some types have members of their own.
 * @typedef {object} Problem
 * @property {string} [type]
 * @property {string} [title]
 * @property {string} [detail]
 * @property {FieldError[]} [errors]
 * @property {string} [reason] why the file was rejected
 */

/** A response with an error status. `kind` is the problem's type without its prefix. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {Problem} problem
   * @param {number} retryAfter the seconds of `Retry-After`, or 0 without that header
   */
  constructor(status, problem, retryAfter = 0) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`)
    this.status = status
    this.problem = problem
    this.kind = String(problem.type ?? "").replace(PREFIX, "")
    this.retryAfter = retryAfter
  }

  /**
   * Whether a repetition of the request may succeed. A damaged file (502) stays damaged until its
   * bytes are sent again.
   */
  get isTransient() {
    return this.kind !== "file-damaged" && isTransientStatus(this.status)
  }
}

/**
 * Return whether the same request may succeed later. After a 501, it cannot.
 * @param {number} status
 */
export function isTransientStatus(status) {
  return (status >= 500 && status !== NOT_IMPLEMENTED) || status === 408 || status === 429
}

/**
 * The absence of a response. The network has failed, the server is down, or CORS forbids the
 * request.
 */
export class Unreachable extends Error {
  /** @param {string} server its name in a sentence, such as "the store" */
  constructor(server) {
    super(`${server} does not answer`)
    this.isTransient = true
    this.retryAfter = 0
  }
}

/**
 * @typedef {object} Options
 * @property {unknown} [body] sent as JSON
 * @property {AbortSignal} [signal]
 * @property {Record<string, string>} [headers]
 * @property {import("./retries.js").Say} [say]
 */

/** @typedef {(address: URL, options: RequestInit) => Promise<Response>} Fetch */

export class Api {
  /**
   * @param {import("./session.js").Session} session
   * @param {URL} root the address of the API, including the path that a proxy adds in front of it
   * @param {Fetch} request
   * @param {import("./retries.js").Environment} environment
   */
  constructor(session, root, request = (...sent) => fetch(...sent), environment = BROWSER) {
    this.session = session
    this.root = root
    this.request = request
    this.environment = environment
  }

  /**
   * Return a successful response without reading its body. Throw Refused for an error status, and
   * Unreachable if there is no response.
   * @param {string} method
   * @param {string} path relative to the root of the API
   * @param {Options} options
   */
  async fetch(method, path, { body, signal, headers } = {}) {
    const { key } = this.session
    /** @type {Record<string, string>} */
    const sentHeaders = { Authorization: `Bearer ${key}`, ...headers }
    if (body !== undefined) sentHeaders["Content-Type"] = "application/json"
    let answer
    try {
      answer = await this.request(new URL(path, this.root), {
        method,
        headers: sentHeaders,
        signal,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
      })
    } catch (error) {
      if (signal?.aborted) throw error
      throw new Unreachable("the server")
    }
    if (answer.ok) return answer
    const retryAfter = readRetryAfter(answer.headers.get("Retry-After"))
    const refused = new Refused(answer.status, await readProblem(answer), retryAfter)
    if (answer.status === 401) this.session.lose(key)
    throw refused
  }

  /**
   * Send one request, and return the JSON of its response, or null for 204. Throw like `fetch`.
   * @param {string} method
   * @param {string} path
   * @param {Options} options
   * @returns {Promise<any>}
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
   * Repeat a request until its response is final, and return the JSON of the response. Throw
   * Refused for a refusal that a repetition would not change.
   * @param {string} method
   * @param {string} path
   * @param {Options & {signal: AbortSignal}} options
   * @returns {Promise<any>}
   */
  async retry(method, path, options) {
    const { signal, say } = options
    for (;;) {
      try {
        const attempt = () => this.ask(method, path, options)
        return await retry(attempt, { signal, say, environment: this.environment })
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 401) throw error
        await this.session.whenSignedIn(signal)
      }
    }
  }
}

/**
 * Return the metadata of a file, or null if the server has no such file.
 * @param {Pick<Api, "retry">} api
 * @param {string} id
 * @param {Options & {signal: AbortSignal}} options
 * @returns {Promise<FileMetadata | null>}
 */
export async function findMetadata(api, id, options) {
  try {
    return await api.retry("GET", `files/${id}/metadata`, options)
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null
    throw error
  }
}

/**
 * Return the seconds of a `Retry-After` header, which holds a number or a date (RFC 9110, 10.2.3).
 * Return 0 if there is no such header, or if the time has passed.
 * @param {string | null} value
 * @param {number} now milliseconds since 1970
 */
export function readRetryAfter(value, now = Date.now()) {
  if (value === null) return 0
  if (/^\d+$/.test(value)) return Number(value)
  // Date.parse() accepts much more than dates.
  if (!/^[A-Z][a-z]+,? /.test(value)) return 0
  // A date in the form of asctime() is in UTC, but does not say so.
  const at = Date.parse(value.endsWith("GMT") ? value : `${value} GMT`)
  return at > now ? (at - now) / 1000 : 0
}

/**
 * Return the problem document of a response, or an empty one if the body is not a JSON object.
 * @param {Response} answer
 * @returns {Promise<Problem>}
 */
async function readProblem(answer) {
  try {
    const problem = await answer.json()
    return typeof problem === "object" && problem ? problem : {}
  } catch {
    return {}
  }
}
