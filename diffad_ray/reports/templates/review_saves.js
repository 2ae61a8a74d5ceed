/* Verdicts that were given and are not known to be stored. The browser keeps each under a key of its own, so that two
   tabs never overwrite each other, until the server has said that it stored it. A save that is sent twice is stored
   once, because its id and time are made here. */

class Saves {
  constructor(source, prefix, changed) {
    this.source = source;
    this.prefix = "diffad-review/" + prefix + "/";
    this.changed = changed;
    this.inMemory = new Map();
    this.problem = "";
    this.isSending = false;
    this.lastTime = 0;
    this.ahead = 0;
  }

  /* Let times be those of the server's clock: the clock of a tablet may be wrong. */
  setClock(now) {
    this.ahead = Date.parse(now) - Date.now();
  }

  time() {
    this.lastTime = Math.max(this.lastTime + 1, Math.round(Date.now() + this.ahead));
    return new Date(this.lastTime).toISOString();
  }

  add(verdict) {
    const id = [...crypto.getRandomValues(new Uint8Array(4))].map(byte => byte.toString(16).padStart(2, "0")).join("");
    const save = { save_id: id, ...verdict, reviewed_at: this.time() };
    this.inMemory.set(id, save);
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify(save));
    } catch (error) {
      this.problem = "This browser keeps no verdicts (" + error.message + "): leave this page open until all are saved.";
    }
    this.changed();
    this.send();
  }

  /* All saves that are not known to be stored, the oldest first, also those of earlier visits. */
  waiting() {
    const saves = new Map(this.inMemory);
    for (let k = 0; k < localStorage.length; k++) {
      const key = localStorage.key(k);
      if (key.startsWith(this.prefix)) saves.set(key.slice(this.prefix.length), JSON.parse(localStorage.getItem(key)));
    }
    return [...saves.values()].sort((one, other) => (one.reviewed_at < other.reviewed_at ? -1 : 1));
  }

  forget(save) {
    this.inMemory.delete(save.save_id);
    localStorage.removeItem(this.prefix + save.save_id);
  }

  async send() {
    if (this.isSending || !this.source.store) return;
    this.isSending = true;
    let pause = 250;
    /* A save that the server refuses stays here, and the others go on. */
    const refused = new Set();
    for (;;) {
      const save = this.waiting().find(one => !refused.has(one.save_id));
      if (!save) break;
      try {
        await this.source.store(save);
        this.forget(save);
        this.problem = "";
        pause = 250;
      } catch (error) {
        this.problem = this.reason(error);
        if (isRefusal(error.status)) refused.add(save.save_id);
        else {
          this.changed();
          await new Promise(wake => setTimeout(wake, pause));
          pause = Math.min(2 * pause, 4000);
        }
      }
      this.changed();
    }
    this.isSending = false;
  }

  reason(error) {
    if (error.status === 401) {
      return "The server has another token now: open the address that it has printed. Your verdicts are kept.";
    }
    if (error.status === undefined) return "The server does not answer. Your verdicts are kept and sent once it does.";
    return "A verdict is not stored: " + error.message;
  }

  /* What `review --import` takes. */
  document(data) {
    return { format: "diffad-ray verdicts", version: 1, table: data.table, verdicts: this.waiting() };
  }
}

/* Whether sending the same again is of no use, unlike after a lost connection, a wrong token or a busy server. */
function isRefusal(status) {
  return status >= 400 && status < 500 && ![401, 408, 429].includes(status);
}
