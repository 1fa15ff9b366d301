// A page that was opened as a file may not start a worker, and without one the search has no results. There a hidden
// frame takes its place: the script runs in it, and messages go back and forth as they do with a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      const begin = () => document.body.append(frame)
      frame.addEventListener("load", () => {
        const inside = frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = url
        script.addEventListener("load", () => {
          this.inside = inside
          this.waiting.forEach(data => this.postMessage(data))
        })
        inside.document.body.append(script)
      }, { once: true })
      document.body ? begin() : document.addEventListener("DOMContentLoaded", begin)
    }

    postMessage(data) {
      if (this.inside) this.inside.dispatchEvent(new MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
  }
}
