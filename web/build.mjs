// Builds ../src/tdagger/view/page.html out of src/: one file, whose content security policy names the hash of its script and of its style.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const options = { bundle: true, minify: true, write: false, format: "iife", target: "es2022", charset: "utf8", legalComments: "none" };
const bundled = async (entry, plugins = []) =>
  (await build({ ...options, entryPoints: [entry], plugins })).outputFiles[0].text.trim();

const worker = await bundled("src/worker.ts");
const workerSource = {
  name: "worker-source",
  setup(use) {
    use.onResolve({ filter: /^worker-source$/ }, () => ({ path: "worker-source", namespace: "text" }));
    use.onLoad({ filter: /.*/, namespace: "text" }, () => ({ contents: worker, loader: "text" }));
  },
};
const script = (await bundled("src/main.ts", [workerSource])).replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
const style = await bundled("src/style.css");
const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
const licence = ["@dagrejs/dagre", "@dagrejs/graphlib", "d3-hierarchy"]
  .map((name) => {
    const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
    return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}`;
  })
  .join("\n\n\n");
const policy = `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; worker-src blob:; img-src data: blob:; base-uri 'none'; form-action 'none'`;
const parts = { POLICY: policy, STYLE: style, SCRIPT: script, LICENCES: licence.replaceAll("--", "- -") };
const page = readFileSync("src/page.html", "utf8").replace(/\{\{([A-Z]+)\}\}/g, (_, name) => parts[name]);
const to = process.argv[2] ?? "../src/tdagger/view/page.html";
writeFileSync(to, page);
console.log(`${to}: ${Buffer.byteLength(page)} bytes`);
