"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const order = (row) => row.cells[column].dataset.order;
      const compare = (first, second) => {
        const [a, b] = [Number(order(first)), Number(order(second))];
        if (Number.isNaN(a) || Number.isNaN(b)) return order(first).localeCompare(order(second), "en");
        return a === b ? 0 : a - b;
      };
      const rows = [...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
      body.append(...rows);
    });
  });
}
for (const command of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy the command";
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(command);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with the keyboard";
  });
  command.after(button);
}
