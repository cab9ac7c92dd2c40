/** The dialog for one file: its properties, its history, and the actions that its state allows. */

import { announce } from "./announcing.js"
import { Refused } from "./api.js"
import { download } from "./downloads.js"
import {
  find,
  make,
  makeCopyButton,
  makeName,
  makePill,
  setText,
  show,
  showName,
} from "./elements.js"
import { makeShare } from "./sharing.js"
import { sayBytes, sayError, sayRejection, sayTime } from "./words.js"

/** @typedef {import("./api.js").FileMetadata} FileMetadata */

/**
 * A transition in the history of a file.
 * @typedef {object} HistoryEntry
 * @property {string} at RFC 3339
 * @property {string} state
 * @property {string} by
 * @property {string | null} why
 */

/** @type {Record<string, string>} */
const CAUSES = { client: "a client", store: "the store", worker: "the verification" }

export class Details {
  /**
   * @param {Pick<import("./api.js").Api, "ask" | "fetch" | "root">} api
   * @param {() => void} onChange called after the file was renamed or deleted
   */
  constructor(api, onChange) {
    this.api = api
    this.onChange = onChange
    this.dialog = find("details", HTMLDialogElement)
    this.content = find("details-content", HTMLElement)
    this.status = find("details-said", HTMLElement)
    this.confirmation = find("confirm", HTMLDialogElement)
    this.file = /** @type {FileMetadata | null} */ (null)
    this.id = ""
    this.listen()
  }

  listen() {
    find("details-close", HTMLButtonElement).addEventListener("click", () => this.dialog.close())
    this.dialog.addEventListener("click", (event) => {
      // The target is the dialog itself only for a click outside its content.
      if (event.target === this.dialog) this.dialog.close()
    })
    this.dialog.addEventListener("close", () => {
      this.id = ""
    })
    find("confirm-no", HTMLButtonElement).addEventListener("click", () => this.confirmation.close())
    find("confirm-yes", HTMLButtonElement).addEventListener("click", () => this.delete())
  }

  /** @param {string} id */
  async open(id) {
    this.id = id
    this.file = null
    this.content.replaceChildren()
    setText(find("details-name", HTMLElement), "…")
    this.say("")
    this.dialog.showModal()
    await this.load()
  }

  /** Load and show the file. Do nothing if the dialog shows another file by then. */
  async load() {
    const { id } = this
    try {
      const file = await this.api.ask("GET", `files/${id}/metadata`)
      const history = await this.loadHistory(id)
      if (id === this.id) this.draw(file, history)
    } catch (error) {
      if (id === this.id) this.say(`The file could not be loaded. ${sayError(error)}`, true)
    }
  }

  /**
   * Return the history of a file. Return an empty list if the server refuses it.
   * @param {string} id
   * @returns {Promise<HistoryEntry[]>}
   */
  async loadHistory(id) {
    try {
      return (await this.api.ask("GET", `files/${id}/history`)).history
    } catch (error) {
      if (error instanceof Refused) return []
      throw error
    }
  }

  /**
   * @param {string} text
   * @param {boolean} isFailure
   */
  say(text, isFailure = false) {
    setText(this.status, text)
    this.status.classList.toggle("failure", isFailure)
    show(this.status, text !== "")
  }

  /**
   * Show a file. The focus stays where it was. So does a form that the user is filling in, unless
   * the state of the file has changed.
   * @param {FileMetadata} file
   * @param {HistoryEntry[]} history
   */
  draw(file, history) {
    const isSameFile = this.file?.id === file.id
    const { activeElement } = document
    const focusedId = isSameFile && this.content.contains(activeElement) ? activeElement?.id : ""
    const shownActions = isSameFile ? find("doing", HTMLElement) : null
    const isSameState = shownActions?.dataset.state === file.state
    this.file = file
    find("details-name", HTMLElement).replaceChildren(makeName(file.filename))
    this.content.replaceChildren(make("p", {}, makePill(file.state)))
    if (file.state === "rejected") {
      this.content.append(make("p", { class: "failure" }, sayRejection(file.rejection)))
    }
    this.content.append(
      shownActions && isSameState ? shownActions : this.makeActions(file),
      makeProperties(file),
      ...makeHistory(history),
    )
    if (focusedId) document.getElementById(focusedId)?.focus()
  }

  /**
   * Return the buttons for the actions that the file's state allows, and a place for their forms.
   * @param {FileMetadata} file
   */
  makeActions(file) {
    const { id, state } = file
    const place = make("div", { class: "place" })
    const buttons = make("div", { class: "buttons" })
    const addButton = (
      /** @type {string} */ buttonId,
      /** @type {string} */ text,
      /** @type {() => unknown} */ action,
      kind = "",
    ) => {
      const properties = { type: "button", id: buttonId, class: kind, onclick: action }
      buttons.append(make("button", properties, text))
    }
    if (state === "ready") {
      addButton("do-download", "Download", () => this.download(file), "first")
      addButton("do-share", "Share a link", () => openForm(place, makeShare(this.api, id)))
    }
    if (state !== "deleted" && state !== "expired") {
      addButton("do-rename", "Rename", () => openForm(place, this.makeRename(file, place)))
    }
    if (state !== "deleted") {
      addButton("do-delete", "Delete", () => this.confirmDeletion(file), "danger")
    }
    return make("div", { id: "doing", "data-state": state }, buttons, place)
  }

  /** @param {FileMetadata} file */
  async download(file) {
    try {
      this.say(await download(this.api, file))
    } catch (error) {
      this.say(`The file could not be downloaded. ${sayError(error)}`, true)
    }
  }

  /**
   * @param {FileMetadata} file
   * @param {HTMLElement} place the parent of the form
   */
  makeRename(file, place) {
    const input = make("input", {
      id: "new-name",
      name: "name",
      required: true,
      value: file.filename,
      autocomplete: "off",
      spellcheck: "false",
    })
    const form = make(
      "form",
      { class: "line" },
      make("label", { for: "new-name" }, "New name"),
      input,
      make("button", { type: "submit", class: "first" }, "Rename"),
    )
    form.addEventListener("submit", (event) => {
      event.preventDefault()
      void this.rename(input.value, place)
    })
    return form
  }

  /**
   * @param {string} filename
   * @param {HTMLElement} place the parent of the form
   */
  async rename(filename, place) {
    try {
      await this.api.ask("PATCH", `files/${this.id}`, { body: { filename } })
      place.replaceChildren()
      this.say(`The file was renamed to ${showName(filename)}.`)
      find("do-rename", HTMLButtonElement).focus()
      this.onChange()
      await this.load()
    } catch (error) {
      this.say(`The file could not be renamed. ${sayError(error)}`, true)
    }
  }

  /** @param {FileMetadata} file */
  confirmDeletion(file) {
    find("confirm-name", HTMLElement).replaceChildren(makeName(file.filename))
    this.confirmation.showModal()
  }

  async delete() {
    this.confirmation.close()
    try {
      await this.api.ask("DELETE", `files/${this.id}`)
      announce(`${showName(this.file?.filename ?? "")} was deleted`)
      this.dialog.close()
      find("files-title", HTMLElement).focus()
      this.onChange()
    } catch (error) {
      this.say(`The file could not be deleted. ${sayError(error)}`, true)
    }
  }

  /**
   * Load the file again if the dialog shows it.
   * @param {import("./events.js").Transition} transition
   */
  update(transition) {
    if (this.dialog.open && transition.file_id === this.id) void this.load()
  }
}

/**
 * Put a form in its place, and focus its first field.
 * @param {HTMLElement} place
 * @param {HTMLFormElement} form
 */
function openForm(place, form) {
  place.replaceChildren(form)
  const field = /** @type {HTMLElement | null} */ (form.querySelector("input, select"))
  field?.focus()
}

/** @param {FileMetadata} file */
function makeProperties(file) {
  const list = make("dl")
  const add = (/** @type {string} */ term, /** @type {(Node | string)[]} */ ...description) =>
    list.append(make("div", {}, make("dt", {}, term), make("dd", {}, ...description)))
  const { id, hash } = file
  add("Size", `${sayBytes(file.size)} (${file.size.toLocaleString("en")} bytes)`)
  add("Type", makeName(file.content_type))
  if (hash) {
    const copyButton = makeCopyButton(() => hash, "Copy the SHA-256")
    add("SHA-256 (proved)", make("code", { id: "digest" }, hash), copyButton)
  } else if (file.declared_sha256) {
    add("SHA-256 (declared)", make("code", {}, file.declared_sha256))
  }
  for (const [name, value] of Object.entries(file.metadata)) {
    add(name === "path" ? "Path" : showName(name), makeName(value))
  }
  add("Created", sayTime(file.created_at))
  if (file.upload_date) add("Proved", sayTime(file.upload_date))
  if (file.state === "pending") add("Expires", sayTime(file.expires_at))
  add(
    "ID",
    make("code", {}, id),
    makeCopyButton(() => id, "Copy the ID"),
  )
  return list
}

/** @param {HistoryEntry[]} history */
function makeHistory(history) {
  if (history.length === 0) return []
  const entries = history.map(({ at, state, by, why }) => {
    const cause = by ? `, by ${CAUSES[by] ?? by}` : ""
    const text = `${sayTime(at)}${cause}${why ? `: ${why}` : ""}`
    return make("li", {}, makePill(state), make("span", {}, text))
  })
  return [make("h3", {}, "History"), make("ol", { class: "history" }, ...entries)]
}
