/**
 * The list of the owner's files. It is filtered and paged by the server. The transitions that the
 * page receives keep it up to date.
 */

import { announce } from "./announcing.js"
import { Refused } from "./api.js"
import { download } from "./downloads.js"
import { find, make, makeName, makePill, setText, show, showName } from "./elements.js"
import { sayBytes, sayError, sayTime } from "./words.js"

const FILES_PER_PAGE = 50
const TYPING_MILLISECONDS = 300
const SHORTEST_REFRESH_MILLISECONDS = 200
const REFRESH_MILLISECONDS = 2000
const SHOWN_DIGEST_DIGITS = 12
const COLUMNS = ["name", "state", "size", "time", "digest", "act"]

/** @typedef {import("./api.js").FileMetadata} FileMetadata */

export class Files {
  /**
   * @param {Pick<import("./api.js").Api, "ask" | "fetch" | "root">} api
   * @param {(id: string) => void} openDetails
   */
  constructor(api, openDetails) {
    this.api = api
    this.openDetails = openDetails
    this.shown = /** @type {Map<string, {file: FileMetadata, row: HTMLTableRowElement}>} */ (
      new Map()
    )
    /** The cursors of the pages from the newest to the one that is shown. */
    this.cursors = [""]
    this.nextCursor = /** @type {string | null} */ (null)
    this.controller = new AbortController()
    this.typingTimer = 0
    this.refreshTimer = 0
    this.isFiltered = false
    this.loadedAt = 0
    this.filters = find("filters", HTMLFormElement)
    this.body = find("rows", HTMLTableSectionElement)
    this.status = find("files-said", HTMLElement)
    this.newer = find("newer", HTMLButtonElement)
    this.older = find("older", HTMLButtonElement)
    this.listen()
  }

  listen() {
    this.filters.addEventListener("submit", (event) => {
      event.preventDefault()
      void this.loadFirstPage()
    })
    this.filters.addEventListener("input", () => {
      clearTimeout(this.typingTimer)
      this.typingTimer = window.setTimeout(() => this.loadFirstPage(), TYPING_MILLISECONDS)
    })
    this.filters.addEventListener("reset", () => {
      // The browser empties the fields after this event.
      setTimeout(() => this.loadFirstPage())
    })
    this.newer.addEventListener("click", () => this.showNewer())
    this.older.addEventListener("click", () => this.showOlder())
    find("reload", HTMLButtonElement).addEventListener("click", () => this.load())
  }

  loadFirstPage() {
    this.cursors = [""]
    return this.load()
  }

  showNewer() {
    if (this.cursors.length > 1) this.cursors.pop()
    return this.showPage()
  }

  showOlder() {
    if (this.nextCursor) this.cursors.push(this.nextCursor)
    return this.showPage()
  }

  showPage() {
    find("files-title", HTMLElement).scrollIntoView({ block: "nearest" })
    return this.load()
  }

  /** Return the query for the page that is shown, with the filters as the user has set them. */
  makeQuery() {
    const values = new FormData(this.filters)
    const query = new URLSearchParams({ limit: String(FILES_PER_PAGE) })
    const name = String(values.get("name")).trim()
    const type = String(values.get("type")).trim()
    const state = String(values.get("state") ?? "")
    if (name) query.set("filename", name.endsWith("*") ? name : `${name}*`)
    if (type) query.set("content_type", type)
    if (state) query.set("state", state)
    this.isFiltered = query.size > 1
    const cursor = this.cursors.at(-1)
    if (cursor) query.set("cursor", cursor)
    return query
  }

  /** Load the page, and cancel an earlier load that is in progress. */
  async load() {
    clearTimeout(this.typingTimer)
    clearTimeout(this.refreshTimer)
    this.refreshTimer = 0
    this.controller.abort()
    this.controller = new AbortController()
    const { signal } = this.controller
    this.body.setAttribute("aria-busy", "true")
    try {
      const page = await this.readPage(signal)
      this.loadedAt = performance.now()
      this.nextCursor = page.next
      this.draw(page.files)
      this.say(page.files.length > 0 ? "" : this.describeEmptyPage(), false)
    } catch (error) {
      if (signal.aborted) return
      this.say(`The list could not be loaded. ${sayError(error)}`, true)
    }
    this.body.removeAttribute("aria-busy")
  }

  /**
   * Return the page. While a type is being typed, the API refuses what is not a type yet, which no
   * file has.
   * @param {AbortSignal} signal
   */
  async readPage(signal) {
    try {
      return await this.api.ask("GET", `files?${this.makeQuery()}`, { signal })
    } catch (error) {
      if (isRefusedType(error)) return { files: [], next: null }
      throw error
    }
  }

  describeEmptyPage() {
    if (this.nextCursor) return "There are no files on this page. Continue with the older ones."
    if (!this.isFiltered) return "There are no files yet."
    return "No file matches. Names are matched from their beginning, and types as a whole."
  }

  /**
   * @param {string} text
   * @param {boolean} isFailure
   */
  say(text, isFailure) {
    setText(this.status, text)
    show(this.status, text !== "")
    this.status.classList.toggle("failure", isFailure)
  }

  /**
   * Show a page of files. A file that is already shown keeps its row, so that the row keeps the
   * focus.
   * @param {FileMetadata[]} files
   */
  draw(files) {
    const shownBefore = this.shown
    this.shown = new Map()
    for (const file of files) {
      const row = shownBefore.get(file.id)?.row ?? this.makeRow(file.id)
      this.shown.set(file.id, { file, row })
      this.drawRow(row, file)
    }
    const rows = [...this.shown.values()].map(({ row }) => row)
    const isSameOrder =
      rows.length === this.body.rows.length &&
      rows.every((row, index) => row === this.body.rows[index])
    if (!isSameOrder) keepFocus(() => this.body.replaceChildren(...rows))
    this.newer.disabled = this.cursors.length === 1
    this.older.disabled = !this.nextCursor
    setText(find("page-number", HTMLElement), `Page ${this.cursors.length}`)
    const isEmpty = files.length === 0 && !this.isFiltered
    show(find("teaching", HTMLElement), isEmpty)
    show(find("listed", HTMLElement), !isEmpty)
    this.suggestTypes(files)
  }

  /** @param {FileMetadata[]} files */
  suggestTypes(files) {
    const types = [...new Set(files.map((file) => file.content_type))].sort()
    const options = types.map((type) => make("option", { value: type }))
    find("types", HTMLDataListElement).replaceChildren(...options)
  }

  /** @param {string} id */
  makeRow(id) {
    const openButton = make("button", {
      type: "button",
      class: "link",
      onclick: () => this.openDetails(id),
    })
    const cells = COLUMNS.map((column) =>
      column === "name"
        ? make("th", { scope: "row", class: column }, openButton)
        : make("td", { class: column }),
    )
    return make("tr", { "data-id": id }, ...cells)
  }

  /**
   * Show a file in its row. The row keeps its button, because the dialog of the file returns the
   * focus to it when it closes.
   * @param {HTMLTableRowElement} row
   * @param {FileMetadata} file
   */
  drawRow(row, file) {
    const drawn = JSON.stringify([file.filename, file.metadata.path, file.state, file.hash])
    if (row.dataset.drawn === drawn) return
    row.dataset.drawn = drawn
    const [name, state, size, time, digest, action] = row.cells
    const [openButton] = name.children
    const created = sayTime(file.created_at)
    const folder = (file.metadata.path ?? "").replace(/[^/]*$/, "")
    openButton.replaceChildren(makeName(file.filename))
    keepFocus(() => name.replaceChildren(openButton))
    if (folder) name.append(makeName(folder, { class: "folder" }))
    name.append(make("span", { class: "brief" }, `${sayBytes(file.size)} · ${created}`))
    state.replaceChildren(makePill(file.state))
    setText(size, sayBytes(file.size))
    time.replaceChildren(make("time", { datetime: file.created_at }, created))
    digest.replaceChildren(file.hash ? makeShortDigest(file.hash) : "–")
    action.replaceChildren(...(file.state === "ready" ? [this.makeDownload(file)] : []))
  }

  /** @param {FileMetadata} file */
  makeDownload(file) {
    const properties = {
      type: "button",
      class: "small",
      "aria-label": `Download ${showName(file.filename)}`,
      onclick: () => this.download(file),
    }
    return make("button", properties, "Download")
  }

  /** @param {FileMetadata} file */
  async download(file) {
    try {
      announce(await download(this.api, file))
      this.say("", false)
    } catch (error) {
      this.say(`${showName(file.filename)} could not be downloaded. ${sayError(error)}`, true)
    }
  }

  /**
   * Show the new state of a listed file. A transition of another file refreshes the first page.
   * @param {import("./events.js").Transition} transition
   */
  update(transition) {
    const { state, filename } = transition
    const listed = this.shown.get(transition.file_id)
    if (listed && state !== "deleted") {
      const hash = transition.hash ?? listed.file.hash
      listed.file = { ...listed.file, state, hash, filename: filename ?? listed.file.filename }
      this.drawRow(listed.row, listed.file)
    } else if (listed || this.cursors.length === 1) this.refresh()
  }

  /** Load the page again soon. Several calls within two seconds load it once. */
  refresh() {
    const wait = this.loadedAt + REFRESH_MILLISECONDS - performance.now()
    this.refreshTimer ||= window.setTimeout(
      () => this.load(),
      Math.max(SHORTEST_REFRESH_MILLISECONDS, wait),
    )
  }
}

/**
 * Change the document. An element that is removed and inserted again loses the focus, and gets it
 * back.
 * @param {() => void} change
 */
function keepFocus(change) {
  const { activeElement } = document
  change()
  if (activeElement instanceof HTMLElement && activeElement.isConnected) {
    activeElement.focus({ preventScroll: true })
  }
}

/** @param {unknown} error */
function isRefusedType(error) {
  return (
    error instanceof Refused &&
    error.kind === "invalid-request" &&
    error.problem.errors?.[0]?.field === "content_type"
  )
}

/** @param {string} digest */
function makeShortDigest(digest) {
  return make("code", { title: digest }, `${digest.slice(0, SHOWN_DIGEST_DIGITS)}…`)
}
