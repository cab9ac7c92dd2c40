/** The form that asks for a key: at first, and again when the key has ended in the middle of the work. */

import { Refused } from "./api.js"
import { find, setText, show } from "./elements.js"
import { sayError } from "./words.js"

const SHAPE = /^assay_[A-Za-z0-9_-]{43}$/

export class SigningIn {
  /** @param {import("./api.js").Api} api @param {import("./session.js").Session} session */
  constructor(api, session) {
    this.api = api
    this.session = session
    this.form = find("sign-in", HTMLFormElement)
    this.input = find("key", HTMLInputElement)
    this.remember = find("remember", HTMLInputElement)
    this.said = find("sign-in-said", HTMLElement)
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.submit()))
    find("sign-out", HTMLButtonElement).addEventListener("click", () => session.close())
    session.addEventListener("lost", () =>
      this.ask(
        "Your key no longer works: it was revoked or has expired. Sign in with another one to" +
          " continue the uploads.",
      ),
    )
  }

  /** @param {string} text what went wrong, if anything did */
  ask(text) {
    this.say(text)
    this.remember.checked = this.session.isRemembered
    show(find("signing-in", HTMLElement), true)
    this.input.focus()
  }

  /** @param {string} text */
  say(text) {
    setText(this.said, text)
    if (text) this.input.setAttribute("aria-invalid", "true")
    else this.input.removeAttribute("aria-invalid")
  }

  async submit() {
    const key = this.input.value.trim()
    if (!SHAPE.test(key)) return this.refuse(
      "This is not an API key. A key consists of assay_ and 43 characters. Copy the whole key.",
    )
    this.say("")
    const button = find("sign-in-button", HTMLButtonElement)
    button.disabled = true
    try {
      await this.try(key)
    } catch (error) {
      this.refuse(sayError(error))
    }
    button.disabled = false
  }

  /** A key that may only write is a key too. @param {string} key */
  async try(key) {
    const { key: before, isLost } = this.session
    Object.assign(this.session, { key, isLost: true })
    try {
      await this.api.ask("GET", "files?limit=1")
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 403) {
        Object.assign(this.session, { key: before, isLost })
        throw error
      }
    }
    this.input.value = ""
    this.session.open(key, this.remember.checked)
  }

  /** @param {string} text */
  refuse(text) {
    this.say(text)
    this.input.focus()
    this.input.select()
  }
}
