/**
 * The form that asks for an API key, at first and after the API has refused the current one. The
 * fragment of the address can fill it in.
 */

import { Refused } from "./api.js"
import { find, setText, show } from "./elements.js"
import { sayError } from "./words.js"

const KEY_SHAPE = /^assay_[A-Za-z0-9_-]{43}$/
const FRAGMENT_START = "#key="
const MALFORMED =
  "The address has something other than a key after its #. The end of the address must be" +
  " #key=assay_ and 43 characters. Copy the whole address."
const OTHER_KEY =
  "The address has another key than the one with which you are signed in, so it was not used." +
  " To use it, sign out, and open the address again."

export class SigningIn {
  /**
   * @param {Pick<import("./api.js").Api, "ask">} api
   * @param {import("./session.js").Session} session
   */
  constructor(api, session) {
    this.api = api
    this.session = session
    this.input = find("key", HTMLInputElement)
    this.remember = find("remember", HTMLInputElement)
    this.error = find("sign-in-said", HTMLElement)
    find("sign-in", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault()
      void this.submit()
    })
    find("sign-out", HTMLButtonElement).addEventListener("click", () => session.close())
    session.addEventListener("lost", () =>
      this.ask(
        "Your key no longer works: it was revoked or has expired. Sign in with another one to" +
          " continue the uploads.",
      ),
    )
  }

  /**
   * Show the form.
   * @param {string} error why the user has to sign in again, or ""
   */
  ask(error) {
    this.showError(error)
    this.remember.checked = this.session.isRemembered
    show(find("signing-in", HTMLElement), true)
    this.input.focus()
  }

  /**
   * Sign in with the key in a fragment of the address. A key never replaces another one: a link on
   * a page of another origin could otherwise send the user's uploads to the owner of its key.
   * @param {string} fragment
   */
  async useFragment(fragment) {
    const key = fragment.startsWith(FRAGMENT_START) ? fragment.slice(FRAGMENT_START.length) : ""
    const error = KEY_SHAPE.test(key) ? "" : MALFORMED
    if (this.session.isOpen) {
      showAddressError(error || (key === this.session.key ? "" : OTHER_KEY))
      return
    }
    this.ask(error)
    if (error) return
    this.input.value = key
    await this.submit()
  }

  /** @param {string} text "" if there is no error */
  showError(text) {
    setText(this.error, text)
    if (text) this.input.setAttribute("aria-invalid", "true")
    else this.input.removeAttribute("aria-invalid")
  }

  async submit() {
    const key = this.input.value.trim()
    if (!KEY_SHAPE.test(key)) {
      this.refuse(
        "This is not an API key. A key consists of assay_ and 43 characters. Copy the whole key.",
      )
      return
    }
    this.showError("")
    const button = find("sign-in-button", HTMLButtonElement)
    button.disabled = true
    try {
      await this.signIn(key)
    } catch (error) {
      this.refuse(sayError(error))
    }
    button.disabled = false
  }

  /**
   * Open the session with a key. If the API does not accept the key, restore the previous one and
   * throw the error of the request. A 403 means that the API accepts the key, but that it has no
   * scope `read`.
   * @param {string} key
   */
  async signIn(key) {
    const { session } = this
    const previous = { key: session.key, isLost: session.isLost }
    // While the session is lost, a 401 to this request does not lose it again.
    Object.assign(session, { key, isLost: true })
    try {
      await this.api.ask("GET", "files?limit=1")
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 403) {
        Object.assign(session, previous)
        throw error
      }
    }
    this.input.value = ""
    session.open(key, this.remember.checked)
  }

  /** @param {string} text */
  refuse(text) {
    this.showError(text)
    this.input.focus()
    this.input.select()
  }
}

/** @param {string} text "" if there is no error */
function showAddressError(text) {
  const element = find("address-said", HTMLElement)
  setText(element, text)
  show(element, text !== "")
}
