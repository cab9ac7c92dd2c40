/**
 * The dialog for one file: the actions that its state allows, a picture, its properties, and its
 * history.
 */

import { announce } from "./announcing.js"
import { Refused } from "./api.js"
import { download } from "./downloads.js"
import { find, make, makeName, makePill, setText, show, showName } from "./elements.js"
import { hasPicture, Picture } from "./picture.js"
import { makeHistory, makeProperties } from "./properties.js"
import { makeShare } from "./sharing.js"
import { DAMAGED, sayError, sayRejection } from "./words.js"

/** @typedef {import("./api.js").FileMetadata} FileMetadata */
/** @typedef {import("./properties.js").HistoryEntry} HistoryEntry */

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
    this.picture = /** @type {Picture | null} */ (null)
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
      this.removePicture()
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
    if (file.state === "damaged") this.content.append(make("p", { class: "failure" }, DAMAGED))
    this.content.append(
      shownActions && isSameState ? shownActions : this.makeActions(file),
      ...this.showPicture(file),
      makeProperties(file),
      ...makeHistory(history),
    )
    if (focusedId) document.getElementById(focusedId)?.focus()
  }

  /**
   * Return the picture of the file in a list, or an empty list if the page shows none. The bytes of
   * a ready file never change, so its picture is loaded once.
   * @param {FileMetadata} file
   */
  showPicture(file) {
    if (!hasPicture(file)) {
      this.removePicture()
      return []
    }
    if (this.picture?.id !== file.id) {
      this.removePicture()
      this.picture = new Picture(this.api, file.id)
      void this.picture.load()
    }
    this.picture.label(file.filename)
    return [this.picture.element]
  }

  removePicture() {
    this.picture?.stop()
    this.picture = null
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
