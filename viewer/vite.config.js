// Builds Neuroglancer into ../api/viewer/, which the HTTP API serves at /viewer/.
//
// The registry's ikonate replaces the one at GitHub that Neuroglancer names; three icons have other names there.
const ICONS = { "code-alt": "chevrons-right", "controls-alt": "controls", layers: "stack" };

export default {
  base: "./",
  build: { outDir: "../api/viewer", emptyOutDir: true, target: "esnext", chunkSizeWarningLimit: 4096 },
  resolve: {
    alias: Object.entries(ICONS).map(([name, known]) => ({
      find: new RegExp(`^ikonate/icons/${name}\\.svg`),
      replacement: `ikonate/icons/${known}.svg`,
    })),
  },
  worker: { format: "es" },
};
