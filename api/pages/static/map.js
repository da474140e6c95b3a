"use strict";
// The map of chunks: three canvases, each with a cell per column of chunks.

const LEAST = 6, MOST = 40, SIDE = 384; // pixels of a cell, and of a map

class ChunkMap {
  constructor(canvas, onChoose) {
    this.canvas = canvas;
    this.plane = canvas.dataset.plane;
    this.onChoose = onChoose;
    this.at = null;
    canvas.addEventListener("click", (event) => {
      if (!this.cells) return;
      const box = canvas.getBoundingClientRect();
      const part = (at, size, n) => Math.min(n - 1, Math.max(0, Math.floor((at / size) * n)));
      this.choose(
        part(event.clientX - box.left, box.width, this.cells.columns),
        part(event.clientY - box.top, box.height, this.cells.rows),
      );
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.cells || !(event.key in moves || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    const [column, row] = this.at || [0, 0];
    if (!(event.key in moves)) return this.choose(column, row);
    const [across, down] = this.at ? moves[event.key] : [0, 0];
    this.at = [
      Math.min(this.cells.columns - 1, Math.max(0, column + across)),
      Math.min(this.cells.rows - 1, Math.max(0, row + down)),
    ];
    this.draw();
  }

  choose(column, row) {
    this.at = [column, row];
    this.draw();
    this.onChoose(this.plane, column, row);
  }

  show(cells) {
    this.cells = cells;
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const counts = `${sum(cells.done)} done, ${sum(cells.failed)} failed, ${sum(cells.empty)} empty of ${sum(cells.total)}`;
    this.canvas.setAttribute("aria-label", `Chunks in ${this.plane}, ${cells.columns} x ${cells.rows} cells: ${counts}`);
    this.draw();
  }

  draw() {
    if (!this.cells) return;
    const { columns, rows, total, done, failed, empty } = this.cells;
    const scale = Math.min(MOST, Math.max(LEAST, Math.floor(SIDE / Math.max(columns, rows))));
    const side = scale < 12 ? scale : scale - 1; // larger cells have a gap
    this.canvas.style.maxWidth = `${columns * MOST}px`;
    this.canvas.width = columns * scale;
    this.canvas.height = rows * scale;
    const paint = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name);
    for (let i = 0; i < total.length; i++) {
      const x = (i % columns) * scale, y = Math.floor(i / columns) * scale;
      const fill = (name, share) => {
        if (!share) return;
        paint.globalAlpha = share;
        paint.fillStyle = colour(name);
        paint.fillRect(x, y, side, side);
      };
      fill("--none", 1);
      const recorded = done[i] + empty[i];
      fill(done[i] ? "--done" : "--empty", recorded / total[i]);
      if (failed[i]) fill("--failed", Math.max(0.85, failed[i] / total[i])); // one of many is seen too
    }
    paint.globalAlpha = 1;
    if (this.at) {
      paint.strokeStyle = colour("--text");
      paint.lineWidth = 2;
      paint.strokeRect(this.at[0] * scale + 1, this.at[1] * scale + 1, scale - 2, scale - 2);
    }
  }
}
