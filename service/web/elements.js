/** Making elements. Texts are only ever texts: nothing here, or anywhere on the page, reads markup. */

/** Characters that turn the direction of what follows, so that `gpj.exe` reads as `exe.jpg`. */
const TURNING = /[\u202A-\u202E\u2066-\u2069]/g

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} properties attributes, or `on…` listeners; `false`, `null` and `undefined` leave one out
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value)
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : String(value))
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

/**
 * An element of the page itself.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function find(id, kind) {
  const element = document.getElementById(id)
  if (!(element instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`)
  return element
}

/** A name from outside, apart from the text around it. @param {string} name @param {Record<string, any>} properties */
export function makeName(name, properties = {}) {
  return make("bdi", properties, showName(name))
}

/** A name with what would turn it around made visible. @param {string} name */
export function showName(name) {
  return name.replace(TURNING, (found) => `[U+${found.codePointAt(0)?.toString(16).toUpperCase()}]`)
}

/** Change a text only where it is another: a live region would read it again. @param {Node} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}

/** @param {HTMLElement} element @param {boolean} shown */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown
}

/**
 * A button that copies a text, and says so.
 * @param {() => string} read @param {string} label
 */
export function makeCopyButton(read, label) {
  const button = make("button", { type: "button", class: "small", "aria-label": label }, "Copy")
  button.addEventListener("click", async () => {
    setText(button, (await copy(read())) ? "Copied" : "Not copied")
    setTimeout(() => setText(button, "Copy"), 2000)
  })
  return button
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return copyBySelection(text) // plain http has no clipboard
  }
}

/** @param {string} text */
function copyBySelection(text) {
  const before = document.activeElement
  const area = make("textarea", { class: "visually-hidden", "aria-hidden": "true" })
  area.value = text
  const place = document.querySelector("dialog[open]") ?? document.body
  place.append(area)
  area.select()
  const done = document.execCommand("copy")
  area.remove()
  if (before instanceof HTMLElement) before.focus()
  return done
}
