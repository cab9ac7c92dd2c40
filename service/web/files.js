/** The owner's files: searched, filtered, page by page, and kept up to date by what the stream of events tells. */

import { download } from "./downloads.js"
import { announce } from "./announcing.js"
import { find, make, makeName, setText, show, showName } from "./elements.js"
import { sayBytes, sayError, sayTime, STATES } from "./words.js"

const PAGE = 50
const TYPED_MILLISECONDS = 300
const RELOAD_MILLISECONDS = 2000

/** @typedef {Record<string, any>} FileMetadata as the API describes it */

export class Files {
  /** @param {import("./api.js").Api} api @param {(id: string) => void} open the details of a file */
  constructor(api, open) {
    this.api = api
    this.open = open
    this.files = /** @type {Map<string, {file: FileMetadata, row: HTMLTableRowElement}>} */ (new Map())
    this.cursors = [""]
    this.next = /** @type {string | null} */ (null)
    this.controller = new AbortController()
    this.timer = 0
    this.refreshing = 0
    this.isFiltered = false
    this.loadedAt = 0
    this.filters = find("filters", HTMLFormElement)
    this.body = find("rows", HTMLTableSectionElement)
    this.said = find("files-said", HTMLElement)
    this.listen()
  }

  listen() {
    this.filters.addEventListener("submit", (event) => (event.preventDefault(), this.begin()))
    this.filters.addEventListener("input", () => this.plan(() => this.begin(), TYPED_MILLISECONDS))
    this.filters.addEventListener("reset", () => setTimeout(() => this.begin()))
    find("newer", HTMLButtonElement).addEventListener("click", () => this.turn(-1))
    find("older", HTMLButtonElement).addEventListener("click", () => this.turn(1))
    find("reload", HTMLButtonElement).addEventListener("click", () => this.load())
  }

  /** @param {() => unknown} work @param {number} milliseconds */
  plan(work, milliseconds) {
    clearTimeout(this.timer)
    this.timer = window.setTimeout(work, milliseconds)
  }

  /** The first page, of other filters. */
  begin() {
    this.cursors = [""]
    return this.load()
  }

  /** @param {number} by one page on or back */
  turn(by) {
    if (by > 0 && this.next) this.cursors.push(this.next)
    if (by < 0 && this.cursors.length > 1) this.cursors.pop()
    find("files-title", HTMLElement).scrollIntoView({ block: "nearest" })
    return this.load()
  }

  query() {
    const values = new FormData(this.filters)
    const query = new URLSearchParams({ limit: String(PAGE) })
    const [name, type] = [String(values.get("name")).trim(), String(values.get("type")).trim()]
    if (name) query.set("filename", name.endsWith("*") ? name : `${name}*`)
    if (type) query.set("content_type", type)
    if (values.get("state")) query.set("state", String(values.get("state")))
    this.isFiltered = query.size > 1
    if (this.cursors.at(-1)) query.set("cursor", this.cursors.at(-1) ?? "")
    return query
  }

  async load() {
    clearTimeout(this.timer)
    clearTimeout(this.refreshing)
    this.refreshing = 0
    this.controller.abort()
    this.controller = new AbortController()
    const { signal } = this.controller
    this.body.setAttribute("aria-busy", "true")
    try {
      const page = await this.api.ask("GET", `files?${this.query()}`, { signal })
      this.loadedAt = performance.now()
      this.next = page.next
      this.draw(page.files)
      this.say(this.describeNothing(page.files.length), false)
    } catch (error) {
      if (signal.aborted) return
      this.say(`The list could not be read. ${sayError(error)}`, true)
    }
    this.body.removeAttribute("aria-busy")
  }

  /** @param {number} count of files */
  describeNothing(count) {
    if (count) return ""
    if (this.next) return "No file on this page: go on to older ones."
    return this.isFiltered ? "No file matches. A name is searched from its beginning, a type as a whole." : "No file yet."
  }

  /** @param {string} text @param {boolean} isFailure */
  say(text, isFailure) {
    setText(this.said, text)
    show(this.said, text !== "")
    this.said.classList.toggle("failure", isFailure)
  }

  /** Rows that stay keep their elements, and with them the focus. @param {FileMetadata[]} files */
  draw(files) {
    const before = this.files
    this.files = new Map()
    const rows = files.map((file) => {
      const row = before.get(file.id)?.row ?? this.makeRow(file.id)
      this.files.set(file.id, { file, row })
      this.drawRow(row, file)
      return row
    })
    if (rows.length !== this.body.rows.length || rows.some((row, place) => row !== this.body.rows[place])) this.body.replaceChildren(...rows)
    const newer = find("newer", HTMLButtonElement)
    const older = find("older", HTMLButtonElement)
    newer.disabled = this.cursors.length === 1
    older.disabled = !this.next
    setText(find("page-number", HTMLElement), `Page ${this.cursors.length}`)
    const isEmpty = !files.length && !this.isFiltered
    show(find("teaching", HTMLElement), isEmpty)
    show(find("listed", HTMLElement), !isEmpty)
    this.offerTypes(files)
  }

  /** @param {FileMetadata[]} files */
  offerTypes(files) {
    const types = [...new Set(files.map((file) => String(file.content_type)))].sort()
    find("types", HTMLDataListElement).replaceChildren(...types.map((type) => make("option", { value: type })))
  }

  /** @param {string} id */
  makeRow(id) {
    const opener = make("button", { type: "button", class: "link", onclick: () => this.open(id) })
    const cells = [make("th", { scope: "row" }, opener), ...Array.from({ length: 5 }, () => make("td"))]
    for (const [place, kind] of ["name", "state", "size", "time", "digest", "act"].entries()) cells[place].className = kind
    return make("tr", { "data-id": id }, ...cells)
  }

  /** @param {HTMLTableRowElement} row @param {FileMetadata} file */
  drawRow(row, file) {
    const drawn = JSON.stringify([file.filename, file.metadata.path, file.state, file.hash])
    if (row.dataset.drawn === drawn) return
    row.dataset.drawn = drawn
    const [name, state, size, time, digest, act] = row.cells
    const folder = String(file.metadata.path ?? "").replace(/[^/]*$/, "")
    const [opener] = name.children // stays: a dialog that closes gives it the focus back
    opener.replaceChildren(makeName(file.filename))
    const brief = make("span", { class: "brief" }, `${sayBytes(file.size)} · ${sayTime(file.created_at)}`)
    name.replaceChildren(opener, ...(folder ? [makeName(folder, { class: "folder" })] : []), brief)
    state.replaceChildren(make("span", { class: "pill", "data-state": file.state }, STATES[file.state] ?? file.state))
    setText(size, sayBytes(file.size))
    time.replaceChildren(make("time", { datetime: file.created_at }, sayTime(file.created_at)))
    digest.replaceChildren(file.hash ? make("code", { title: file.hash }, `${file.hash.slice(0, 12)}…`) : "–")
    act.replaceChildren(...(file.state === "ready" ? [this.makeDownload(file)] : []))
  }

  /** @param {FileMetadata} file */
  makeDownload(file) {
    const label = `Download ${showName(file.filename)}`
    return make("button", { type: "button", class: "small", "aria-label": label, onclick: () => this.download(file) }, "Download")
  }

  /** @param {FileMetadata} file */
  async download(file) {
    try {
      announce(await download(this.api, /** @type {any} */ (file)))
      this.say("", false)
    } catch (error) {
      this.say(`${showName(file.filename)} could not be downloaded. ${sayError(error)}`, true)
    }
  }

  /** What an event said of a file. @param {{file_id: string, state: string, hash: string | null, filename: string}} event */
  hear(event) {
    const known = this.files.get(event.file_id)
    if (known && event.state !== "deleted") {
      known.file = { ...known.file, state: event.state, hash: event.hash ?? known.file.hash, filename: event.filename ?? known.file.filename }
      this.drawRow(known.row, known.file)
    } else if (known || this.cursors.length === 1) this.refresh()
  }

  /** Soon, and once for many. */
  refresh() {
    this.refreshing ||= window.setTimeout(() => this.load(), Math.max(200, this.loadedAt + RELOAD_MILLISECONDS - performance.now()))
  }
}
