// Runs check.py on Python 3.14 in WebAssembly: node check.mjs NODE_MODULES
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const { loadPyodide } = await import(pathToFileURL(resolve(process.argv[2], "pyodide/pyodide.mjs")).href);
const pyodide = await loadPyodide({ args: [] });
for (const [place, folder] of [["/sources", "../../src"], ["/cases", "../unit"]]) {
  pyodide.FS.mkdirTree(place);
  pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root: resolve(here, folder) }, place);
}
pyodide.runPython("import sys; sys.argv = ['check.py', '/sources', '/cases']; sys.dont_write_bytecode = True");
try {
  pyodide.runPython(readFileSync(resolve(here, "check.py"), "utf8"));
} catch (error) {  // thrown on, node would print a line of the interpreter's
  console.error(error.message);
  process.exit(1);
}
