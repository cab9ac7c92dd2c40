/** Where files come in: two buttons, and the whole page to drop on. */

import { announce } from "./announcing.js"
import { listChosen, readDropped } from "./dropping.js"
import { find, setText, show, showName } from "./elements.js"

export class DropPlace {
  /** @param {(chosen: import("./uploads.js").Chosen[]) => void} give */
  constructor(give) {
    this.give = give
    this.said = find("drop-said", HTMLElement)
    this.connect("choose-files", "files-input")
    this.connect("choose-folder", "folder-input")
    document.addEventListener("dragover", (event) => this.hover(event))
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && this.mark(false))
    document.addEventListener("drop", (event) => this.drop(event))
  }

  /** @param {string} button @param {string} id of its input */
  connect(button, id) {
    const input = find(id, HTMLInputElement)
    find(button, HTMLButtonElement).addEventListener("click", () => input.click())
    input.addEventListener("change", () => {
      if (input.files?.length) this.give(listChosen(input.files))
      input.value = "" // so that the same file can be chosen again
    })
  }

  /** @param {DragEvent} event */
  hover(event) {
    if (!event.dataTransfer?.types.includes("Files")) return
    event.preventDefault()
    const isOpen = !find("work", HTMLElement).hidden && document.querySelector("dialog[open]") === null
    event.dataTransfer.dropEffect = isOpen ? "copy" : "none"
    this.mark(isOpen)
  }

  /** @param {boolean} isOver */
  mark(isOver) {
    document.body.classList.toggle("over", isOver)
  }

  /** @param {DragEvent} event */
  async drop(event) {
    this.mark(false)
    if (!event.dataTransfer?.types.includes("Files")) return
    event.preventDefault()
    if (find("work", HTMLElement).hidden) return
    const unreadable = await readDropped(event.dataTransfer, this.give)
    const text = unreadable.length ? `Could not be read on this device, so not taken: ${unreadable.slice(0, 5).map(showName).join(", ")}${unreadable.length > 5 ? " …" : ""}` : ""
    setText(this.said, text)
    show(this.said, text !== "")
    if (text) announce(text)
  }
}
