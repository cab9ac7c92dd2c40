/** One file, in a dialog: what is known of it, its history, and what can be done with it. */

import { announce } from "./announcing.js"
import { Refused } from "./api.js"
import { download } from "./downloads.js"
import { find, make, makeCopyButton, makeName, setText, show, showName } from "./elements.js"
import { makeShare } from "./sharing.js"
import { sayBytes, sayError, sayRejection, sayTime, STATES } from "./words.js"

/** @typedef {Record<string, any>} FileMetadata as the API describes it */

const BY = /** @type {Record<string, string>} */ ({ client: "a client", store: "the store", worker: "the verification" })

export class Details {
  /** @param {import("./api.js").Api} api @param {() => void} changed */
  constructor(api, changed) {
    this.api = api
    this.changed = changed
    this.dialog = find("details", HTMLDialogElement)
    this.content = find("details-content", HTMLElement)
    this.said = find("details-said", HTMLElement)
    this.file = /** @type {FileMetadata | null} */ (null)
    this.id = ""
    find("details-close", HTMLButtonElement).addEventListener("click", () => this.dialog.close())
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close())
    this.dialog.addEventListener("close", () => (this.id = ""))
    find("confirm-no", HTMLButtonElement).addEventListener("click", () => find("confirm", HTMLDialogElement).close())
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

  async load() {
    const { id } = this
    try {
      const file = await this.api.ask("GET", `files/${id}/metadata`)
      const history = await this.readHistory(id)
      if (id === this.id) this.draw(file, history)
    } catch (error) {
      if (id === this.id) this.say(`The file could not be read. ${sayError(error)}`, true)
    }
  }

  /** @param {string} id @returns {Promise<Record<string, any>[]>} none where the server keeps none */
  async readHistory(id) {
    try {
      return (await this.api.ask("GET", `files/${id}/history`)).history
    } catch (error) {
      if (error instanceof Refused) return []
      throw error
    }
  }

  /** @param {string} text @param {boolean} isFailure */
  say(text, isFailure = false) {
    setText(this.said, text)
    this.said.classList.toggle("failure", isFailure)
    show(this.said, text !== "")
  }

  /** @param {FileMetadata} file @param {Record<string, any>[]} history */
  draw(file, history) {
    const isOther = this.file?.id !== file.id
    const wasIn = !isOther && this.content.contains(document.activeElement) ? document.activeElement?.id : ""
    this.file = file
    find("details-name", HTMLElement).replaceChildren(makeName(file.filename))
    const before = isOther ? null : find("doing", HTMLElement)
    const doing = before && before.dataset.state === file.state ? before : this.makeDoing(file) // a form that is filled in stays
    this.content.replaceChildren(
      make("p", {}, make("span", { class: "pill", "data-state": file.state }, STATES[file.state] ?? file.state)),
      ...(file.state === "rejected" ? [make("p", { class: "failure" }, sayRejection(file.rejection))] : []),
      doing,
      this.makeFacts(file),
      ...this.makeHistory(history),
    )
    if (wasIn) document.getElementById(wasIn)?.focus()
  }

  /** What can be done in this state. @param {FileMetadata} file */
  makeDoing(file) {
    const isReady = file.state === "ready"
    const isGone = file.state === "deleted" || file.state === "expired"
    const place = make("div", { class: "place" })
    const turn = (/** @type {HTMLElement} */ form) => (place.replaceChildren(form), /** @type {HTMLElement | null} */ (form.querySelector("input, select"))?.focus())
    const button = (/** @type {string} */ id, /** @type {string} */ text, /** @type {() => unknown} */ act, kind = "") =>
      make("button", { type: "button", id, class: kind, onclick: act }, text)
    const buttons = [
      isReady && button("do-download", "Download", () => this.download(file), "first"),
      isReady && button("do-share", "Share a link", () => turn(makeShare(this.api, file.id))),
      !isGone && button("do-rename", "Rename", () => turn(this.makeRename(file, place))),
      file.state !== "deleted" && button("do-delete", "Delete", () => this.confirm(file), "danger"),
    ]
    const shown = /** @type {HTMLButtonElement[]} */ (buttons.filter(Boolean))
    return make("div", { id: "doing", "data-state": file.state }, make("div", { class: "buttons" }, ...shown), place)
  }

  /** @param {FileMetadata} file */
  makeFacts(file) {
    const facts = make("dl")
    const add = (/** @type {string} */ term, /** @type {(Node | string | null)[]} */ ...what) =>
      facts.append(make("div", {}, make("dt", {}, term), make("dd", {}, ...what)))
    add("Size", `${sayBytes(file.size)} (${file.size.toLocaleString("en")} bytes)`)
    add("Type", makeName(file.content_type))
    if (file.hash) add("SHA-256, proved", make("code", { id: "digest" }, file.hash), makeCopyButton(() => file.hash, "Copy the SHA-256"))
    else if (file.declared_sha256) add("SHA-256, announced", make("code", {}, file.declared_sha256))
    for (const [name, value] of Object.entries(file.metadata)) add(name === "path" ? "Path" : showName(name), makeName(String(value)))
    add("Sent", sayTime(file.created_at))
    if (file.upload_date) add("Proved", sayTime(file.upload_date))
    if (file.state === "pending") add("Waits until", sayTime(file.expires_at))
    add("Id", make("code", {}, file.id), makeCopyButton(() => file.id, "Copy the id"))
    return facts
  }

  /** @param {Record<string, any>[]} history */
  makeHistory(history) {
    if (!history.length) return []
    const steps = history.map((step) =>
      make("li", {}, make("span", { class: "pill", "data-state": step.state }, STATES[step.state] ?? step.state),
        make("span", {}, `${sayTime(step.at)}${step.by ? `, by ${BY[step.by] ?? step.by}` : ""}${step.why ? `: ${step.why}` : ""}`)))
    return [make("h3", {}, "History"), make("ol", { class: "history" }, ...steps)]
  }

  /** @param {FileMetadata} file */
  async download(file) {
    try {
      this.say(await download(this.api, /** @type {any} */ (file)))
    } catch (error) {
      this.say(`The file could not be downloaded. ${sayError(error)}`, true)
    }
  }

  /** @param {FileMetadata} file @param {HTMLElement} place */
  makeRename(file, place) {
    const input = make("input", { id: "new-name", name: "name", required: true, value: file.filename, autocomplete: "off", spellcheck: "false" })
    const form = make("form", { class: "line" }, make("label", { for: "new-name" }, "New name"), input,
      make("button", { type: "submit", class: "first" }, "Rename"))
    form.addEventListener("submit", (event) => (event.preventDefault(), this.rename(input.value, place)))
    return form
  }

  /** @param {string} filename @param {HTMLElement} place */
  async rename(filename, place) {
    try {
      await this.api.ask("PATCH", `files/${this.id}`, { body: { filename } })
      place.replaceChildren()
      this.say(`It is now called ${showName(filename)}.`)
      find("do-rename", HTMLButtonElement).focus()
      this.changed()
      await this.load()
    } catch (error) {
      this.say(`The name stays as it was. ${sayError(error)}`, true)
    }
  }

  /** @param {FileMetadata} file */
  confirm(file) {
    find("confirm-name", HTMLElement).replaceChildren(makeName(file.filename))
    find("confirm", HTMLDialogElement).showModal()
  }

  async delete() {
    find("confirm", HTMLDialogElement).close()
    try {
      await this.api.ask("DELETE", `files/${this.id}`)
      announce(`${showName(this.file?.filename ?? "")} is deleted`)
      this.dialog.close()
      find("files-title", HTMLElement).focus()
      this.changed()
    } catch (error) {
      this.say(`The file could not be deleted. ${sayError(error)}`, true)
    }
  }

  /** What an event said of a file. @param {{file_id: string}} event */
  hear(event) {
    if (this.dialog.open && event.file_id === this.id) void this.load()
  }
}
