// What the theme and sphinx-togglebutton leave undone: for people who use the keyboard, and without a server.

// The excerpts in the search are fetched, which a browser refuses in the file system: there, titles must do.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", () => {
  // What is wider than the page scrolls in itself: the keyboard must reach it. The theme does this for code and tables.
  const reach = () =>
    document.querySelectorAll("mjx-container[display='true'], .cell_output").forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  window.MathJax?.startup?.promise.then(reach);
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);

  // The link to the exercise stands in the title that unfolds its solution: a click on it only follows the link.
  document.querySelectorAll(".admonition.dropdown > .admonition-title a").forEach((link) => {
    link.addEventListener("click", (click) => click.stopPropagation());
  });

  // All toggles are called "Toggle hidden content"; the title says which solution it is.
  document.querySelectorAll("button.toggle-button").forEach((button) => {
    button.setAttribute("aria-label", button.closest(".admonition-title").textContent.trim());
  });
});
