// Show the document that lies beside this page. A file of its own: the page's
// Content-Security-Policy lets no script run that stands in the page itself.
window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: new URL("docs/dataplane.json", document.baseURI).href,
    dom_id: "#swagger-ui",
    deepLinking: true,
    defaultModelExpandDepth: 4,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null, // its default sends the document to a server elsewhere
  });
});
