/** The two buttons by which the user chooses files, and the page as a drop target. */

import { announce } from "./announcing.js"
import { listChosen, readDropped } from "./dropping.js"
import { find, setText, show, showName } from "./elements.js"
import { sayCount } from "./words.js"

const MOST_NAMES = 5

export class DropPlace {
  /** @param {(chosen: import("./uploads.js").Chosen[]) => void} give receives the chosen files */
  constructor(give) {
    this.give = give
    this.status = find("drop-said", HTMLElement)
    this.connect("choose-files", "files-input")
    this.connect("choose-folder", "folder-input")
    document.addEventListener("dragover", (event) => this.dragOver(event))
    document.addEventListener("dragleave", (event) => {
      // Without a related target, the pointer has left the page.
      if (event.relatedTarget === null) this.highlight(false)
    })
    document.addEventListener("drop", (event) => this.drop(event))
  }

  /**
   * @param {string} buttonId
   * @param {string} inputId
   */
  connect(buttonId, inputId) {
    const input = find(inputId, HTMLInputElement)
    find(buttonId, HTMLButtonElement).addEventListener("click", () => input.click())
    input.addEventListener("change", () => {
      if (input.files?.length) this.give(listChosen(input.files))
      // Without this, choosing the same file again would not be a change.
      input.value = ""
    })
  }

  /** @param {DragEvent} event */
  dragOver(event) {
    if (!hasFiles(event)) return
    event.preventDefault()
    const isOpen = isSignedIn() && document.querySelector("dialog[open]") === null
    event.dataTransfer.dropEffect = isOpen ? "copy" : "none"
    this.highlight(isOpen)
  }

  /** @param {boolean} isOver */
  highlight(isOver) {
    document.body.classList.toggle("over", isOver)
  }

  /** @param {DragEvent} event */
  async drop(event) {
    this.highlight(false)
    if (!hasFiles(event)) return
    event.preventDefault()
    if (!isSignedIn()) return
    const unreadable = await readDropped(event.dataTransfer, this.give)
    const text = describeUnreadable(unreadable)
    setText(this.status, text)
    show(this.status, text !== "")
    if (text) announce(text)
  }
}

/**
 * @param {DragEvent} event
 * @returns {event is DragEvent & {dataTransfer: DataTransfer}}
 */
function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false
}

function isSignedIn() {
  return !find("work", HTMLElement).hidden
}

/** @param {string[]} paths */
function describeUnreadable(paths) {
  if (paths.length === 0) return ""
  const names = paths.slice(0, MOST_NAMES).map(showName).join(", ")
  const more = paths.length > MOST_NAMES ? ", …" : ""
  const count = sayCount(paths.length, "item")
  return `${count} could not be read on this device and will not be uploaded: ${names}${more}`
}
