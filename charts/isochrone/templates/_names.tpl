{{/* Name of the chart in labels. */}}
{{- define "isochrone.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Full name: the release's, with the chart's where the release's does not hold it. At most 40
characters, so that what is appended to it still makes a name. */}}
{{- define "isochrone.fullname" -}}
{{- $name := include "isochrone.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "isochrone.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-operator" (include "isochrone.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the ServiceAccount to use where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Labels of everything that this chart makes. `managed-by` is Helm's: the operator takes what bears
`managed-by: isochrone` for its own. */}}
{{- define "isochrone.labels" -}}
{{ include "isochrone.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "isochrone.selector" -}}
app.kubernetes.io/name: {{ include "isochrone.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels by which the operator's pods are selected. */}}
{{- define "isochrone.operatorSelector" -}}
{{ include "isochrone.selector" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Reference of an image: (dict "root" $ "image" .Values.images.operator). */}}
{{- define "isochrone.image" -}}
{{- $images := .root.Values.images -}}
{{- with $images.registry }}{{ . }}/{{ end -}}
{{- .image.repository -}}
{{- if or .image.tag (not .image.digest) }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "isochrone.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Security contexts of every pod of this chart: the "restricted" Pod Security Standard. */}}
{{- define "isochrone.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "isochrone.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Name of something cluster-scoped: with the release's namespace, because releases in two namespaces
may share a name. (dict "root" $ "part" "operator") */}}
{{- define "isochrone.clusterName" -}}
{{- printf "%s:%s:%s" .root.Release.Namespace (include "isochrone.fullname" .root) .part -}}
{{- end -}}
