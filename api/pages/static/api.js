"use strict";
// Shows the API's document. Booleans are check boxes.

function CheckBoxes(system) {
  const box = ({ value, onChange, disabled, description }) => system.React.createElement("input", {
    type: "checkbox",
    checked: String(value) === "true",
    disabled,
    "aria-label": description || "true",
    onChange: (event) => onChange(String(event.target.checked)),
  });
  return { components: { JsonSchema_string_boolean: box } };
}

window.addEventListener("DOMContentLoaded", () => {
  window.ui = SwaggerUIBundle({
    url: document.body.dataset.document,
    dom_id: "#swagger-ui",
    deepLinking: true,
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [CheckBoxes],
    layout: "BaseLayout",
    docExpansion: "list",
    tryItOutEnabled: true,
  });
});
