/**
 * Elements of the page, found or made. Text is never parsed as HTML, neither here nor anywhere else
 * on the page.
 */

import { STATES } from "./words.js"

/** Characters that change the direction of text. After one of them, `gpj.exe` reads `exe.jpg`. */
const DIRECTION_CHARACTERS = /[\u202A-\u202E\u2066-\u2069]/g
const COPIED_MILLISECONDS = 2000

/** @typedef {Node | string | null | undefined} Child */

/**
 * Return a new element.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} properties attributes, and listeners such as `onclick`. A property
 *   that is `false`, `null` or `undefined` is left out.
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue
    if (typeof value === "function") element.addEventListener(name.slice("on".length), value)
    else element.setAttribute(name, value === true ? "" : String(value))
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/**
 * Return an element of index.html. Throw an Error if there is no such element.
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
export function find(id, kind) {
  const element = document.getElementById(id)
  if (!(element instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`)
  return element
}

/**
 * Return an element for a name that a user has chosen. Its direction does not affect the text
 * around it.
 * @param {string} name
 * @param {Record<string, any>} properties
 */
export function makeName(name, properties = {}) {
  return make("bdi", properties, showName(name))
}

/**
 * Return a name in which the characters that change the direction of text are replaced by their
 * code points.
 * @param {string} name
 */
export function showName(name) {
  return name.replace(DIRECTION_CHARACTERS, (character) => {
    const codePoint = character.codePointAt(0) ?? 0
    return `[U+${codePoint.toString(16).toUpperCase()}]`
  })
}

/** @param {string} state */
export function makePill(state) {
  return make("span", { class: "pill", "data-state": state }, STATES[state] ?? state)
}

/**
 * Set a text unless it is already there. (Screen readers read a live region again whenever its text
 * is set.)
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}

/**
 * @param {HTMLElement} element
 * @param {boolean} isShown
 */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown
}

/**
 * Return a button that copies a text to the clipboard, and shows whether this succeeded.
 * @param {() => string} read returns the text
 * @param {string} label
 */
export function makeCopyButton(read, label) {
  const button = make("button", { type: "button", class: "small", "aria-label": label }, "Copy")
  button.addEventListener("click", async () => {
    setText(button, (await copy(read())) ? "Copied" : "Not copied")
    setTimeout(() => setText(button, "Copy"), COPIED_MILLISECONDS)
  })
  return button
}

/**
 * Copy a text to the clipboard, and return whether this succeeded.
 * @param {string} text
 */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // Over plain http, browsers have no `navigator.clipboard`.
    return copyBySelection(text)
  }
}

/** @param {string} text */
function copyBySelection(text) {
  const { activeElement } = document
  const area = make("textarea", { class: "visually-hidden", "aria-hidden": "true" })
  area.value = text
  // A modal dialog makes everything outside it inert.
  const parent = document.querySelector("dialog[open]") ?? document.body
  parent.append(area)
  area.select()
  const isCopied = document.execCommand("copy")
  area.remove()
  if (activeElement instanceof HTMLElement) activeElement.focus()
  return isCopied
}
