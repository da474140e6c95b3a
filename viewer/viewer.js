// Neuroglancer's default viewer, whose state is that of the URL after #!.
import "neuroglancer";
import { StatusMessage } from "neuroglancer/unstable/status.js";
import { bindDefaultCopyHandler, bindDefaultPasteHandler } from "neuroglancer/unstable/ui/default_clipboard_handling.js";
import { setDefaultInputEventBindings } from "neuroglancer/unstable/ui/default_input_event_bindings.js";
import { makeDefaultViewer } from "neuroglancer/unstable/ui/default_viewer.js";
import { bindTitle } from "neuroglancer/unstable/ui/title.js";
import { UrlHashBinding } from "neuroglancer/unstable/ui/url_hash_binding.js";

// The URL is not written while it is read: on a slow machine the timer that writes it fires in between, asks a layer
// of annotations for its state before it has one, and the viewer drops the layer ("reading 'length'").
class Binding extends UrlHashBinding {
  updateFromUrlHash() {
    this.reading = true;
    try {
      super.updateFromUrlHash();
    } finally {
      this.reading = false;
    }
  }

  setUrlHash() {
    if (!this.reading) super.setUrlHash();
  }
}

const viewer = makeDefaultViewer();
window.viewer = viewer;
setDefaultInputEventBindings(viewer.inputEventBindings);
bindTitle(viewer.title);
bindDefaultCopyHandler(viewer);
bindDefaultPasteHandler(viewer);
const binding = new Binding(viewer.state, viewer.dataSourceProvider.sharedKvStoreContext);
binding.parseError.changed.add(() => {
  const error = binding.parseError.value;
  if (error !== undefined) new StatusMessage().setErrorMessage(`Error parsing state: ${error.message}`);
});
binding.updateFromUrlHash();
