"""Links to Neuroglancer: the state of a viewer that draws roots, their nodes and skeletons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.extras import naming_extras
from ..core.ids import Ids
from .node_layers import ROOT

Points = npt.NDArray[np.float64]
SEGMENTS, NODES = "roots", "nodes"
"""Names of the viewer's layers."""
SHADER = """#uicontrol float thick_nm slider(min=20, max=1000, default=300)
#uicontrol float point_size slider(min=1, max=50, default=8)
void main() {
  float thickness = prop_max_dt_nm();
  if (thickness >= 0.0) {
    setColor(colormapJet(clamp(thickness / thick_nm, 0.0, 1.0)));
  } else {
    setColor(vec3(0.5, 0.5, 0.5));
  }
  setPointMarkerSize(clamp(point_size * pow(prop_size_um3(), 1.0 / 3.0), 3.0, 50.0));
  setPointMarkerBorderWidth(0.0);
}
"""
"""The shader of nodes. A node's colour is its thickness, blue to red, or grey if that is unknown; a node's
size on the screen is the cube root of its volume."""
MARGIN, SMALLEST_NM, SLICE_PIXELS = 1.2, 1_000.0, 500.0
"""Height of the view as a multiple of the box's extent; minimum extent in nm; height of a cross-section in
pixels."""


class View(NamedTuple):
    """What a link draws: sources of layers as Neuroglancer names them, selected roots, and where to look.

    ``box`` has the lower and the upper corner in nm, (2, 3); None leaves the position to the viewer.
    """

    nodes: str
    skeletons: str | None
    properties: str | None
    segmentation: str | None
    roots: Ids
    box: Points | None

    @property
    def state(self) -> Any:
        """The `neuroglancer.ViewerState`. Raises ConfigError if the library is not installed.

        If the view has ``roots`` or ``properties``, only nodes of selected roots are drawn.
        """
        with naming_extras():
            import neuroglancer

        state = neuroglancer.ViewerState({"selection": {}})  # a panel shows what the mouse points at
        state.dimensions = neuroglancer.CoordinateSpace(names=list("xyz"), units="nm", scales=[1, 1, 1])
        if self.box is not None:
            extent = max(float((self.box[1] - self.box[0]).max()), SMALLEST_NM)
            state.position = self.box.mean(axis=0).tolist()
            state.projection_scale = MARGIN * extent
            state.cross_section_scale = MARGIN * extent / SLICE_PIXELS
        sources = [self.segmentation, self.skeletons, self.properties]
        segments = neuroglancer.SegmentationLayer(
            source=[source for source in sources if source], segments=self.roots.tolist()
        )
        nodes = neuroglancer.AnnotationLayer(source=self.nodes, shader=SHADER)
        if segments.source:
            state.layers.append(name=SEGMENTS, layer=segments)
            nodes.linked_segmentation_layer = {ROOT: SEGMENTS}
        if len(self.roots) or self.properties:
            nodes.filter_by_segmentation = [ROOT]
            nodes.ignore_null_segment_filter = False  # else it draws all nodes where no root is selected
        state.layers.append(name=NODES, layer=nodes)
        state.layout = "xy-3d" if self.segmentation else "3d"
        state.show_slices = False
        return state

    def link(self, viewer: str) -> str:
        """Return the URL at which a viewer draws this view; ``viewer`` is the viewer's own URL.

        Raises ConfigError if the library ``neuroglancer`` is not installed.
        """
        with naming_extras():
            import neuroglancer

        url: str = neuroglancer.to_url(self.state, prefix=viewer)
        return url
