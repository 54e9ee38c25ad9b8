// Widgets and their fonts are looked for beside this file, not beside the page and not on a public host.
(function () {
  var here = new URL(".", document.currentScript.src).href;
  requirejs.config({ baseUrl: here.replace(/\/$/, "") });
  document.currentScript.setAttribute("data-jupyter-widgets-cdn", here);
})();
