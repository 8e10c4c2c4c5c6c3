// The list of what is stored. It shows the last rows only, however many come, and follows them as long as the user has
// not scrolled away. What people have written becomes text nodes, never HTML.

const SHOWN = 500;
const NEAR = 48; // pixels from the bottom that still count as being there

export function textOf(text) {
  const span = document.createElement("span");
  span.className = "text";
  span.dir = "auto";
  span.textContent = text;
  return span;
}

export class Rows {
  #list = document.getElementById("messages");
  #earlier = document.getElementById("earlier");
  #scroller = document.getElementById("scroller");
  #latest = document.getElementById("latest");
  #coming = [];
  #scheduled = false;
  #left = 0;
  #atBottom = true;
  #top = 0;

  constructor() {
    this.#scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    this.#latest.addEventListener("click", () => this.follow());
    // The keyboard of a phone takes half of the window, and the last row must not be behind it.
    new ResizeObserver(() => this.changed()).observe(this.#scroller);
  }

  // Many rows of a replay become one change of the page. Not with the next frame: a tab in the background has none.
  add(text) {
    this.#coming.push(text);
    if (this.#coming.length > SHOWN) this.#left += this.#coming.splice(0, this.#coming.length - SHOWN).length;
    if (!this.#scheduled) {
      this.#scheduled = true;
      setTimeout(() => this.#show(), 15);
    }
  }

  // Something in the scrolled part has changed its height.
  changed() {
    if (!this.#atBottom) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
  }

  // Go to the bottom, and stay there.
  follow() {
    this.#atBottom = true;
    this.changed();
    this.#latest.hidden = true;
  }

  #show() {
    this.#scheduled = false;
    const fragment = document.createDocumentFragment();
    for (const text of this.#coming) {
      const item = document.createElement("li");
      item.append(textOf(text));
      fragment.append(item);
    }
    this.#coming = [];
    this.#list.append(fragment);
    // By twos, so that the background of every other row does not change under the reader.
    for (let over = this.#list.children.length - SHOWN; over > 0; over -= 2) {
      this.#list.firstElementChild.remove();
      this.#list.firstElementChild.remove();
      this.#left += 2;
    }
    if (this.#left > 0) {
      this.#earlier.textContent = `${this.#left} earlier messages are not shown`;
      this.#earlier.hidden = false;
    }
    this.#latest.hidden = this.#atBottom;
    this.changed();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    if (scrollHeight - scrollTop - clientHeight < NEAR) {
      this.#atBottom = true;
      this.#latest.hidden = true;
    } else if (scrollTop < this.#top) {
      // Only a move upwards is the user's. The event of a move of ours may come after the window has shrunk, and then
      // the bottom is far away without anybody having left it.
      this.#atBottom = false;
    }
    this.#top = scrollTop;
  }
}
