import assert from "node:assert/strict"
import { test } from "node:test"

import { sayTogether } from "../../service/web/announcing.js"
import { showName } from "../../service/web/elements.js"

test("announcements of a short time are joined, and files are counted", () => {
  const several = Array.from({ length: 1200 }, (_, number) => `${number}.txt`)
  const text = sayTogether(
    new Map([
      ["3 files are queued", []],
      ["rejected", ["a.txt"]],
      ["failed", several],
    ]),
  )
  assert.equal(text, "3 files are queued. a.txt: rejected. 1,200 files: failed")
  assert.equal(sayTogether(new Map()), "")
})

test("names show the characters that would turn their direction", () => {
  assert.equal(showName("photo\u202Egpj.exe"), "photo[U+202E]gpj.exe")
  assert.equal(showName("\u2066a\u2069"), "[U+2066]a[U+2069]")
  for (const name of ["größe €.txt", "صورة.jpg", "写真.jpg", "👩‍👩‍👧.png", ""]) {
    assert.equal(showName(name), name)
  }
})
