// Writes checked.ts: each dashboard as a literal of the type that Grafana has for it, so that tsc refuses a field that
// Grafana does not know, and a value that it does not take. An imported JSON file would do neither: its strings have the
// type `string`, and no field of it is in excess.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const home = new URL("../grafana/dashboards/", import.meta.url);
const types = 'import type { Dashboard } from "@grafana/schema";\n';
const names = readdirSync(home).filter((name) => name.endsWith(".json")).sort();
const literals = names.map((name, number) => {
  const text = readFileSync(new URL(name, home), "utf-8");
  return `// ${name}\nexport const dashboard${number}: Dashboard = ${text.trim()};\n`;
});
writeFileSync(new URL("checked.ts", import.meta.url), [types, ...literals].join("\n"));
