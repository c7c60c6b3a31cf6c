// Keeps the page, the libraries and the model, so that the page works offline after the first visit.
const load = () => fetch("files.json", { cache: "no-store" }).then((answer) => answer.json());

self.addEventListener("install", (event) => {
  const keep = async () => {
    const { version, files } = await load();
    await (await caches.open(version)).addAll([...files, "files.json"]);
    for (const name of await caches.keys()) if (name !== version) await caches.delete(name);
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(caches.match(event.request, { ignoreSearch: true }).then((kept) => kept ?? fetch(event.request)));
});
