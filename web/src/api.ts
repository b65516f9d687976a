// The service's answers, and how they are asked for. All addresses are relative: the page may live under any prefix.

export interface Histogram {
  edges: number[];
  counts: number[];
}

export interface ClassHistogram {
  edges: number[];
  negative: number[];
  positive: number[];
}

/** Names of the negative and of the positive class. */
export type Classes = [string, string];

export interface Model {
  name: string;
  property: string;
  unit: string;
  ready: boolean;
  predicts: string;
  features: string[];
  molecules: number | null;
  date: string;
  classes: Classes | null;
  prevalence: number | null;
  held_out: ClassHistogram | null;
  rmse: number | null;
  scores: Record<string, number>;
  error_from: string;
  coverage: number | null;
  level: number;
  decimals: number | null;
  training: Histogram | null;
  caveats: string[];
  data: Record<string, string>;
}

export type Flag = "in" | "near" | "out";

export interface Prediction {
  model: string;
  property: string;
  unit: string;
  value: number | null;
  classes: Classes | null;
  predicted_class: string | null;
  prediction_set: string[] | null;
  low: number | null;
  high: number | null;
  level: number;
  domain: Flag | null;
  reason: string;
  nearest: string | null;
  nearest_measured: number | null;
  similarity: number | null;
  measured: number | null;
  acid_pka: number | null;
  base_pka: number | null;
  charge: number | null;
  main_form: string | null;
  note: string;
}

export interface Result {
  input: string;
  smiles: string | null;
  predictions: Prediction[];
  error: string | null;
}

export interface Explanation {
  summary: string;
  contributions_to: string | null;
  faithful: boolean;
  atoms: { atom: number; element: string; contribution: number; standard_error: number | null }[];
  rest: number;
  drawing: string;
  neighbours: { smiles: string; value: number; similarity: number; compared: string }[];
  sites: { atom: number; element: string; kind: "acid" | "base"; pka: number }[] | null;
  form: string | null;
}

export interface JobModel {
  model: string;
  columns: Record<string, string>;
  domain: Record<Flag, number>;
  classes: Record<string, number>;
  histogram: Histogram | null;
}

export interface Job {
  id: string;
  name: string;
  state: "queued" | "running" | "done" | "failed";
  models: string[];
  format: string;
  created: number;
  expires: number | null;
  progress: number;
  rows: number | null;
  predicted: number | null;
  structure: string | null;
  others: string[];
  note: string | null;
  results: JobModel[];
  error: string | null;
}

export type Row = Record<string, string | number | null>;

const KEY = "moltune-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value: string) => sessionStorage.setItem(KEY, value),
  headers: (): Record<string, string> => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {}),
};

let asked: Promise<void> | null = null;
let ask: () => Promise<void> = async () => {};

export function onToken(how: () => Promise<void>): void {
  ask = how;
}

export async function call(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...token.headers() } });
  } catch {
    throw new Error("The service does not answer: it may have ended, or the network is down.");
  }
  if (response.status === 401) {
    asked ??= ask().finally(() => (asked = null));
    await asked;
    return call(path, options);
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response: Response): Promise<Error> {
  try {
    return new Error(((await response.json()) as { detail: string }).detail);
  } catch {
    return new Error(`The service answered ${response.status}.`);
  }
}

async function json<T>(path: string, body?: unknown): Promise<T> {
  const options: RequestInit =
    body === undefined
      ? {}
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await call(path, options)).json() as Promise<T>;
}

let known: Promise<{ models: Model[]; limits: Record<string, number>; version: string }> | null = null;

export function models(): NonNullable<typeof known> {
  known ??= json<{ models: Model[]; limits: Record<string, number>; version: string }>("v1/models").catch((error) => {
    known = null;
    throw error;
  });
  return known;
}

export const predict = async (molecule: string): Promise<Result> => {
  const found = await json<{ results: Result[] }>("v1/predict", { molecules: [molecule] });
  return found.results[0] as Result;
};
export const explain = (molecule: string, model: string) => json<Explanation>("v1/explain", { molecule, model });
export const jobs = async () => (await json<{ jobs: Job[] }>("v1/jobs")).jobs;
export const job = (id: string) => json<Job>(`v1/jobs/${id}`);
export const rows = (id: string, query: URLSearchParams) =>
  json<{ total: number; offset: number; rows: Row[] }>(`v1/jobs/${id}/rows?${query}`);
export const removeJob = (id: string) => call(`v1/jobs/${id}`, { method: "DELETE" });

export function upload(file: File, models: string[], progress: (share: number) => void): Promise<Job> {
  // fetch cannot say how much was sent.
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("file", file);
    for (const one of models) form.append("models", one);
    const request = new XMLHttpRequest();
    request.open("POST", "v1/jobs");
    for (const [name, value] of Object.entries(token.headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => progress(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Error("The file was not taken: it may be too large, or the service has ended."));
    request.onload = () => {
      const answer = (() => {
        try {
          return JSON.parse(request.responseText);
        } catch {
          return {};
        }
      })();
      if (request.status === 202) resolve(answer as Job);
      else reject(new Error(answer.detail ?? `The service answered ${request.status}.`));
    };
    request.send(form);
  });
}
