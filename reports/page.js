// Show the answers that match all three menus. Without JavaScript every answer is shown.
const form = document.getElementById("filter");
if (form) {
  const cards = [...document.querySelectorAll("#answers article")];
  const show = () => {
    let count = 0;
    for (const card of cards) {
      const match = ["arm", "where", "verdict"].every(
        (key) => form.elements[key].value === "" || form.elements[key].value === card.dataset[key]);
      card.hidden = !match;
      count += match;
    }
    document.getElementById("count").textContent = `${count} of ${cards.length} answers`;
  };
  form.hidden = false;
  form.addEventListener("change", show);
  show();
}
