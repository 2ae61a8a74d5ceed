/* Where images and rows come from: the server of this page, or the page itself where it is one file. */

class ServerSource {
  constructor(token) {
    this.token = token;
  }

  async ask(path, options) {
    const headers = { Authorization: "Bearer " + this.token, "Content-Type": "application/json" };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response;
    const text = await response.text();
    let reason = response.status + " " + response.statusText;
    try {
      reason = JSON.parse(text).error;
    } catch (error) {
      console.info("The answer is no JSON: " + error.message);
    }
    throw Object.assign(new Error(reason), { status: response.status });
  }

  async json(path) {
    return (await this.ask(path)).json();
  }

  data() {
    return this.json("/api/review");
  }

  async picture(image, use) {
    return URL.createObjectURL(await (await this.ask("/api/images/" + image.id + "?use=" + use)).blob());
  }

  outlines(image) {
    return this.json("/api/images/" + image.id + "/outlines?detector=" + image.fingerprint);
  }

  async mean(image) {
    const answer = await this.ask("/api/images/" + image.id + "/mean?detector=" + image.fingerprint);
    return answer.status === 204 ? null : URL.createObjectURL(await answer.blob());
  }

  around(image) {
    return this.json("/api/images/" + image.id + "/around?detector=" + image.fingerprint);
  }

  estimate() {
    return this.json("/api/estimate");
  }

  store(save) {
    return this.ask("/api/verdicts", { method: "POST", body: JSON.stringify(save) });
  }

  release(url) {
    URL.revokeObjectURL(url);
  }
}

class FileSource {
  constructor(data) {
    this.content = data;
  }

  async data() {
    return { ...this.content, now: new Date().toISOString() };
  }

  async picture(image) {
    return this.content.pictures[image.id];
  }

  async outlines(image) {
    return this.content.outlines[image.id];
  }

  async mean(image) {
    return this.content.means[image.mean] || null;
  }

  /* Only the images in the file can be shown beside each other. */
  async around(image) {
    const time = one => (one.taken_at || "") + "\n" + one.uri;
    const folder = this.content.images.filter(one => one.folder === image.folder);
    folder.sort((one, other) => (time(one) < time(other) ? -1 : 1));
    const place = folder.findIndex(one => one.id === image.id);
    const same = one => image.part !== null && one.part === image.part && one.id !== image.id;
    return {
      neighbours: folder.slice(Math.max(0, place - 3), place + 4).filter(one => one.id !== image.id),
      part: this.content.images.filter(same),
    };
  }

  release() {}
}
